import type { Cells } from "../output/table.ts";
import type { Column, Listing, Whole } from "./listing.ts";

export type Cell = string | number | boolean | null;

/** Rows that a page of the file holds of a column: no fewer are fetched. */
const BLOCK = 2048;
/** Blocks of a column that are fetched one by one; rows that lie in more of them need the whole column. */
const MOST_BLOCKS = 8;

/** Values of a worklist that have been fetched. */
export interface Fetched {
  /** The value of a column in a row; undefined if it has not been fetched. */
  at(column: Column, row: number): Cell | undefined;
  /** Fetches the values of some columns in some rows. */
  fetch(columns: readonly Column[], rows: readonly number[]): Promise<void>;
}

const kept = new WeakMap<Listing, Fetched>();

export function fetchedOf(listing: Listing): Fetched {
  const fetched = kept.get(listing) ?? nothingFetched(listing);
  kept.set(listing, fetched);
  return fetched;
}

function nothingFetched(listing: Listing): Fetched {
  const blocks = new Map<string, Cells>();
  const wholes = new Map<string, Whole>();

  async function fetchBlock(column: Column, block: number): Promise<void> {
    const cells = await listing.read(column, block * BLOCK, Math.min(listing.rows, (block + 1) * BLOCK));
    blocks.set(`${block} ${column.name}`, cells);
  }

  async function fetchColumn(column: Column, rows: readonly number[]): Promise<void> {
    if (wholes.has(column.name)) return;
    const needed = [...new Set(rows.map((row) => Math.floor(row / BLOCK)))];
    const missing = needed.filter((block) => !blocks.has(`${block} ${column.name}`));
    if (missing.length > MOST_BLOCKS) wholes.set(column.name, await listing.whole(column));
    else await Promise.all(missing.map((block) => fetchBlock(column, block)));
  }

  return {
    at(column, row) {
      const whole = wholes.get(column.name);
      if (whole) return valueOf(column, whole, row);
      const cells = blocks.get(`${Math.floor(row / BLOCK)} ${column.name}`);
      return cells && (cells[row % BLOCK] ?? null);
    },
    fetch: async (columns, rows) => void (await Promise.all(columns.map((column) => fetchColumn(column, rows)))),
  };
}

/** Takes a value out of a whole column. */
export function valueOf({ kind }: Column, { values, words }: Whole, row: number): Cell {
  const value = values[row]!;
  if (kind === "word") return words[value]!;
  if (kind === "truth") return Number.isNaN(value) ? null : value === 1;
  return value;
}

/** Says a value in a few words; nothing where it is not known. */
export function sayCell({ kind, flags }: Column, value: Cell): string {
  if (value === null || Number.isNaN(value)) return "";
  if (kind === "truth") return value ? "yes" : "no";
  if (kind === "flags") return flagsIn(flags ?? {}, Number(value)).join(", ");
  return typeof value === "number" ? sayNumber(value) : String(value);
}

export function flagsIn(flags: Readonly<Record<string, number>>, bits: number): string[] {
  return Object.entries(flags).filter(([, bit]) => bits & bit).map(([name]) => name.replaceAll("_", " "));
}

function sayNumber(value: number): string {
  const size = Math.abs(value);
  const said = Number.isInteger(value) || size === 0 ? String(value) : size >= 1e5 || size < 1e-3 ? value.toExponential(1) : value.toPrecision(3);
  return said.replace(/^-/, "−").replace("e-", "e−");
}
