import type { Column, Whole } from "./listing.ts";

/**
 * A condition on a column, in an address `<column>:<operator>:<value>`.
 *
 * `is` and `not` compare, where an empty value is an unknown one; `min` and `max` bound a number; `has` and `lacks` name
 * a flag, or any of them by `*`.
 */
export interface Filter {
  readonly column: Column;
  readonly operator: Operator;
  readonly value: string;
}

export type Operator = "is" | "not" | "min" | "max" | "has" | "lacks";

export const OPERATORS: Readonly<Record<Column["kind"], readonly Operator[]>> = {
  word: ["is", "not"],
  truth: ["is"],
  number: ["min", "max", "is"],
  flags: ["has", "lacks"],
};

export const ANY_FLAG = "*";

/** Reads the filters of an address; those on columns that are not there are told apart. */
export function readFilters(settings: URLSearchParams, columns: readonly Column[]): { filters: Filter[]; unread: string[] } {
  const filters: Filter[] = [];
  const unread: string[] = [];
  for (const text of settings.getAll("filter")) {
    const found = readFilter(text, columns);
    if (found) filters.push(found);
    else unread.push(text);
  }
  return { filters, unread };
}

function readFilter(text: string, columns: readonly Column[]): Filter | undefined {
  for (const column of columns) {
    if (!text.startsWith(`${column.name}:`)) continue;
    const rest = text.slice(column.name.length + 1);
    const operator = OPERATORS[column.kind].find((one) => rest.startsWith(`${one}:`));
    const value = operator && rest.slice(operator.length + 1);
    if (operator && value !== undefined && isReadable(column, operator, value)) return { column, operator, value };
  }
  return undefined;
}

function isReadable(column: Column, operator: Operator, value: string): boolean {
  if (column.kind === "number") return Number.isFinite(Number(value)) && (value !== "" || operator === "is");
  if (column.kind === "flags") return value === ANY_FLAG || value in (column.flags ?? {});
  return column.kind !== "truth" || ["yes", "no", ""].includes(value);
}

export function writeFilter({ column, operator, value }: Filter): string {
  return `${column.name}:${operator}:${value}`;
}

/** Says a filter in words. */
export function sayFilter({ column, operator, value }: Filter): string {
  const said = value === "" ? "unknown" : value === ANY_FLAG ? "any flag" : value.replaceAll("_", " ");
  const verb = { is: "is", not: "is not", min: "≥", max: "≤", has: "has", lacks: "lacks" }[operator];
  return `${column.title} ${verb} ${column.kind === "word" && value ? value : said}`;
}

/**
 * Finds the rows that meet all filters, in the order of the store.
 *
 * Several `is` of one column are alternatives. A number that is not known meets no bound.
 */
export function rowsThatMeet(filters: readonly Filter[], wholes: ReadonlyMap<string, Whole>, rows: number): Uint32Array {
  const alternatives = new Set(filters.filter(({ operator }) => operator === "is").map(({ column }) => column));
  const tests = [
    ...filters.filter(({ operator }) => operator !== "is").map((filter) => [filter]),
    ...[...alternatives].map((column) => filters.filter((filter) => filter.column === column && filter.operator === "is")),
  ].map((alike) => {
    const { values, words } = wholes.get(alike[0]!.column.name)!;
    const each = alike.map((filter) => testOf(filter, words));
    return (row: number) => each.some((test) => test(values[row]!));
  });
  const found = new Uint32Array(rows);
  let count = 0;
  for (let row = 0; row < rows; row++) {
    if (tests.every((test) => test(row))) found[count++] = row;
  }
  return found.slice(0, count);
}

function testOf({ column, operator, value }: Filter, words: readonly string[]): (found: number) => boolean {
  if (column.kind === "flags") {
    const bits = value === ANY_FLAG ? ~0 : column.flags![value]!;
    return (found) => ((found & bits) !== 0) === (operator === "has");
  }
  if (operator === "min") return (found) => found >= Math.fround(Number(value));
  if (operator === "max") return (found) => found <= Math.fround(Number(value));
  if (column.kind === "word") {
    const place = words.indexOf(value);
    return (found) => (found === place) === (operator === "is");
  }
  if (value === "") return Number.isNaN;
  const number = column.kind === "truth" ? Number(value === "yes") : Math.fround(Number(value));
  return (found) => found === number;
}
