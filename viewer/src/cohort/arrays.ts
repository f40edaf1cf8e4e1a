import type { Output, Variable } from "../output/output.ts";

/** Arrays of a result that are shown together, under the words that their names begin with. */
export interface Group {
  readonly title: string;
  /** Arrays over the same dimensions are columns of one table. */
  readonly tables: readonly (readonly Variable[])[];
  readonly pictures: readonly Variable[];
  /** Arrays that are too large to be read in a page, or have too many dimensions: they are listed. */
  readonly others: readonly Variable[];
}

const SPACE = ["z", "y", "x"];
const MOST_DIMS = 2;
const MOST_ROWS = 600;
const MOST_IN_PICTURES = 2 ** 25;

/** Arranges all results of the cohort by what the store declares of them. */
export function arrangeResults(output: Output): Group[] {
  const results = [...output.variables.values()].filter(
    ({ attributes, dims }) => attributes.kind === "result" && dims[0] !== "image_id",
  );
  const byWord = groupBy(results.sort((one, other) => (one.name < other.name ? -1 : 1)), ({ name }) => name.split("_")[0]!);
  return [...byWord.values()].map((group) => ({
    title: commonWords(group.map(({ name }) => name)),
    tables: [...groupBy(group.filter(isTable), ({ dims }) => dims.join()).values()],
    pictures: group.filter(isPicture),
    others: group.filter((one) => !isTable(one) && !isPicture(one)),
  }));
}

export function isSpace(dim: string): boolean {
  return SPACE.includes(dim);
}

/** An array whose numbers are rows of the store: each is an image. */
export function isOfImages({ attributes }: Variable): boolean {
  return String(attributes.long_name).startsWith("row of ");
}

/** The labels along a dimension; numbers where it has none. */
export async function labelsAlong(output: Output, dim: string, size: number): Promise<string[]> {
  if (output.variables.has(dim)) return output.labels(dim);
  return Array.from({ length: size }, (_, place) => String(place));
}

function isTable({ dims, shape }: Variable): boolean {
  return !dims.some(isSpace) && dims.length <= MOST_DIMS && sizeOf(shape) <= MOST_ROWS;
}

function isPicture({ dims, shape }: Variable): boolean {
  return dims.includes("y") && dims.includes("x") && sizeOf(shape) <= MOST_IN_PICTURES;
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** The words, joined by `_`, with which all of some names begin; the whole name where there is one. */
export function commonWords(names: readonly string[]): string {
  const [first = [], ...rest] = names.map((name) => name.split("_"));
  const end = first.findIndex((word, at) => rest.some((words) => words[at] !== word));
  return first.slice(0, end < 0 ? undefined : end).join("_");
}

function groupBy<Item>(items: readonly Item[], key: (item: Item) => string): Map<string, Item[]> {
  const groups = new Map<string, Item[]>();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
}
