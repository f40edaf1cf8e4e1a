import type { Output } from "../output/output.ts";
import { idOf, rowOf } from "../output/rows.ts";
import { readFilters, rowsThatMeet } from "./filters.ts";
import { type Column, type Listing, openListing, type Whole } from "./listing.ts";

/** Rows of the store in the order in which the worklist shows them. */
export interface Order {
  readonly count: number;
  /** The row at a place, counted from 0. */
  rowAt(place: number): number;
  /** The place of a row; -1 if it is filtered out. */
  placeOf(row: number): number;
  /** Settings of the address that name no column, or no such value. */
  readonly unread: readonly string[];
}

/** The images before and after one in the order of the worklist, and its place there, counted from 0. */
export interface Neighbours {
  readonly previous: string | undefined;
  readonly next: string | undefined;
  readonly place: number;
  readonly count: number;
}

const latest = new WeakMap<Output, { readonly key: string; readonly order: Promise<Order> }>();

/** Orders the rows by the settings `filter`, `search` and `sort` of an address; columns that they name are read whole. */
export function orderOf(output: Output, settings: URLSearchParams): Promise<Order> {
  const key = orderSettings(settings).toString();
  const before = latest.get(output);
  if (before?.key === key) return before.order;
  const order = openListing(output).then((listing) => arrange(listing, settings));
  latest.set(output, { key, order });
  return order;
}

/** Takes those settings of an address that decide which images are listed, and in which order. */
export function orderSettings(settings: URLSearchParams): URLSearchParams {
  return new URLSearchParams([...settings].filter(([name]) => ["filter", "search", "sort"].includes(name)));
}

/** Finds the cases before and after one; undefined where the image is not among those that the settings list. */
export async function neighbours(output: Output, image: string, settings: URLSearchParams): Promise<Neighbours | undefined> {
  const [row, order] = await Promise.all([rowOf(output, image), orderOf(output, settings)]);
  const place = order.placeOf(row);
  if (place < 0) return undefined;
  const idAt = async (at: number) => (at >= 0 && at < order.count ? idOf(output, order.rowAt(at)) : undefined);
  const [previous, next] = await Promise.all([idAt(place - 1), idAt(place + 1)]);
  return { previous, next, place, count: order.count };
}

/** Reads the setting `sort`: the name of a column, after a minus if the largest come first. */
export function readSort(settings: URLSearchParams, columns: readonly Column[]): { column: Column; descending: boolean } | undefined {
  const sort = settings.get("sort") ?? "";
  const name = sort.replace(/^-/, "");
  const column = columns.find((one) => one.name === name);
  return column && { column, descending: sort.startsWith("-") };
}

/** Puts the rows of a listing in the order of some settings. */
export async function arrange(listing: Listing, settings: URLSearchParams): Promise<Order> {
  const { filters, unread } = readFilters(settings, listing.columns);
  const sort = readSort(settings, listing.columns);
  const search = settings.get("search")?.trim().toLowerCase() ?? "";
  const id = listing.columns.find(({ name }) => name === "id");
  const needed = new Map(filters.map(({ column }) => [column.name, column]));
  if (sort) needed.set(sort.column.name, sort.column);
  if (search && id) needed.set(id.name, id);
  const wholes = new Map<string, Whole>();
  await Promise.all([...needed.values()].map(async (column) => wholes.set(column.name, await listing.whole(column))));
  const notRead = [...unread, ...(settings.get("sort") && !sort ? [`sort=${settings.get("sort")}`] : [])];
  if (!needed.size) return inStoreOrder(listing.rows, notRead);
  let rows = rowsThatMeet(filters, wholes, listing.rows);
  if (search && id) rows = rowsWithWord(rows, wholes.get(id.name)!, search);
  if (sort) sortRows(rows, wholes.get(sort.column.name)!, sort);
  return inOrder(rows, notRead);
}

function inStoreOrder(count: number, unread: readonly string[]): Order {
  return { count, rowAt: (place) => place, placeOf: (row) => row, unread };
}

function inOrder(rows: Uint32Array, unread: readonly string[]): Order {
  return { count: rows.length, rowAt: (place) => rows[place]!, placeOf: (row) => rows.indexOf(row), unread };
}

function rowsWithWord(rows: Uint32Array, { values, words }: Whole, search: string): Uint32Array {
  const found = words.map((word) => word.toLowerCase().includes(search));
  return rows.filter((row) => found[values[row]!]);
}

/** Sorts rows in place, stably; what is not known comes last in either direction. */
function sortRows(rows: Uint32Array, { values, words }: Whole, { column, descending }: { column: Column; descending: boolean }): void {
  const keys = column.kind === "word" ? ranks(values, words) : values;
  const sign = descending ? -1 : 1;
  rows.sort((one, other) => {
    const a = keys[one]!;
    const b = keys[other]!;
    if (a === b) return one - other;
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) ? (Number.isNaN(b) ? one - other : 1) : -1;
    return sign * (a - b);
  });
}

/** Replaces the places of words by their ranks in the alphabet; an empty word has none. */
function ranks(values: ArrayLike<number>, words: readonly string[]): Float32Array {
  const rank = new Float32Array(words.length);
  const sorted = words.map((_, place) => place).sort((one, other) => (words[one]! < words[other]! ? -1 : 1));
  sorted.forEach((place, at) => (rank[place] = words[place] ? at : NaN));
  return Float32Array.from(values, (place) => rank[place]!);
}
