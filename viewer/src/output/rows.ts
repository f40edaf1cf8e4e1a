import { Refusal } from "./errors.ts";
import type { Output } from "./output.ts";
import { openTable, type Table } from "./table.ts";

const opened = new WeakMap<Output, Map<string, Promise<Table | undefined>>>();

/** Opens a table that the last finished run wrote beside the store; undefined where there is none. */
export function openBeside(output: Output, name: string): Promise<Table | undefined> {
  const tables = opened.get(output) ?? new Map<string, Promise<Table | undefined>>();
  opened.set(output, tables);
  const table = tables.get(name) ?? openTable(new URL(name, output.address));
  tables.set(name, table);
  return table;
}

/** Tells whether a table is of the plan that the store is of; another run may have been killed between the two. */
export function isOfStore(output: Output, table: Table): boolean {
  const told = table.told as { plan_digest?: string } | undefined;
  return told?.plan_digest === output.attributes.plan_digest;
}

/** Finds the row of an image in the store. */
export async function rowOf(output: Output, id: string): Promise<number> {
  const table = await openCurrent(output, "viewer/rows.parquet");
  const [found] = (await table?.find("id", id)) ?? [];
  const row = found ? Number(found.row) : (await output.labels("image_id")).indexOf(id);
  if (row < 0) {
    throw new Refusal("No such image", `The store has no image ${id}: has its subject been withdrawn, or is it of another run?`);
  }
  return row;
}

/** Finds the id of the image in a row of the store. */
export async function idOf(output: Output, row: number): Promise<string> {
  const table = await openCurrent(output, "viewer/worklist.parquet");
  if (table) return String((await table.read("id", row, row + 1))[0]);
  return String((await output.read("image_id", { image_id: row })).data[0]);
}

/** Opens a table that is of the plan that the store is of; undefined where there is none. */
export async function openCurrent(output: Output, name: string): Promise<Table | undefined> {
  const table = await openBeside(output, name);
  return table && isOfStore(output, table) ? table : undefined;
}
