import { flagsIn, valueOf } from "./cells.ts";
import type { Column, Listing } from "./listing.ts";
import type { Order } from "./order.ts";

/** Rows that are put into text at once: a string of all of them may be longer than a browser lets it be. */
const AT_ONCE = 10_000;

/** Writes the listed images as comma-separated values, with the columns that are shown, in the order that is shown. */
export async function asCsv(listing: Listing, order: Order, columns: readonly Column[]): Promise<Blob> {
  const wholes = await Promise.all(columns.map((column) => listing.whole(column)));
  const parts = [`${columns.map(({ name }) => quoted(name)).join(",")}\r\n`];
  for (let start = 0; start < order.count; start += AT_ONCE) {
    const lines = [];
    for (let place = start; place < Math.min(start + AT_ONCE, order.count); place++) {
      const row = order.rowAt(place);
      lines.push(`${columns.map((column, at) => written(column, valueOf(column, wholes[at]!, row))).join(",")}\r\n`);
    }
    parts.push(lines.join(""));
  }
  return new Blob(parts, { type: "text/csv" });
}

function written({ kind, flags }: Column, value: ReturnType<typeof valueOf>): string {
  if (value === null || Number.isNaN(value)) return "";
  if (kind === "flags") return quoted(flagsIn(flags ?? {}, Number(value)).join(" | "));
  return typeof value === "string" ? quoted(value) : String(value);
}

/** Quotes a text; one that a spreadsheet would take for a formula is made a text by an apostrophe. */
export function quoted(text: string): string {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Lets the reader keep a file. */
export function download(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
