import { isForbidden } from "../output/fetching.ts";
import type { Output } from "../output/output.ts";
import { isOfStore, openBeside } from "../output/rows.ts";
import type { Cells, Table } from "../output/table.ts";

export type Kind = "word" | "number" | "flags" | "truth";

/** A column, as `worklist.parquet` describes it. */
export interface Column {
  readonly name: string;
  readonly title: string;
  readonly about: string;
  readonly kind: Kind;
  readonly units?: string;
  readonly better?: string;
  readonly flags?: Readonly<Record<string, number>>;
}

/** The values of a column for all rows: numbers, of which NaN is unknown, or for words their places in `words`. */
export interface Whole {
  readonly values: Float32Array | Int32Array;
  readonly words: readonly string[];
}

/** The rows of an output, and what is known of each without opening it. */
export interface Listing {
  readonly rows: number;
  readonly columns: readonly Column[];
  /** The columns that are shown where no others are asked for. */
  readonly usual: readonly string[];
  readonly notices: readonly string[];
  read(column: Column, start: number, end: number): Promise<Cells>;
  /** Reads a column whole, once. */
  whole(column: Column): Promise<Whole>;
}

const WORKLIST = "viewer/worklist.parquet";

const USUAL = ["id", "label", "predicted", "right", "certainty", "entropy", "status", "image_flags", "reason"];

const OF_MANIFEST: readonly Column[] = [
  { name: "id", title: "image", about: "name of the image", kind: "word" },
  { name: "label", title: "label", about: "reference label", kind: "word" },
  { name: "subject", title: "subject", about: "whose image it is, by pseudonym", kind: "word" },
  { name: "reason", title: "reason", about: "why the image was left out", kind: "word" },
  { name: "present", title: "present", about: "whether the image was in the cohort at the last run", kind: "truth" },
  { name: "withdrawn", title: "withdrawn", about: "whether its subject was withdrawn", kind: "truth" },
];

const OF_STORE = OF_MANIFEST.filter(({ name }) => ["id", "label", "present"].includes(name));

const listings = new WeakMap<Output, Promise<Listing>>();

/** Opens the worklist of an output; where no finished run has written one, what its manifest tells. */
export function openListing(output: Output): Promise<Listing> {
  const listing = listings.get(output) ?? open(output);
  listings.set(output, listing);
  return listing;
}

async function open(output: Output): Promise<Listing> {
  const worklist = await openBeside(output, WORKLIST);
  if (worklist && isOfStore(output, worklist)) {
    return listed(worklist, (worklist.told as { columns: Column[] }).columns, []);
  }
  const why = worklist
    ? "The worklist is of an earlier run: another was begun on this output, and is not finished."
    : isForbidden(new URL(WORKLIST, output.address))
      ? `The server answered 403 for ${WORKLIST}: it keeps the file back, or no run of this output is finished.`
      : "No run of this output is finished.";
  const manifest = await openBeside(output, "manifest.parquet");
  const by = manifest ? "manifest" : "store";
  const then = `Images are listed by the ${by}, without predictions, metrics and flags, and not all of them can be opened. Run again to go on.`;
  return manifest ? listed(manifest, OF_MANIFEST, [`${why} ${then}`]) : listed(ofStore(output), OF_STORE, [`${why} ${then}`]);
}

/** What the store itself has in one word of each image, as a table; a manifest may be kept back by who serves the output. */
function ofStore(output: Output): Table {
  const arrays: Readonly<Record<string, string>> = { id: "image_id", label: "label", present: "present" };
  const read = new Map<string, Promise<Cells>>();
  const whole = (column: string) => {
    const cells = read.get(column) ?? output.read(arrays[column]!).then(({ data }) => data);
    read.set(column, cells);
    return cells;
  };
  const rows = output.images;
  return {
    rows,
    stretches: [[0, rows]],
    names: Object.keys(arrays),
    told: undefined,
    read: async (column, start, end) => Array.prototype.slice.call(await whole(column), start, end) as Cells,
    find: async () => [],
  };
}

function listed(table: Table, columns: readonly Column[], notices: readonly string[]): Listing {
  const wholes = new Map<string, Promise<Whole>>();
  const there = new Set(columns.map(({ name }) => name));
  const usual = USUAL.filter((name) => there.has(name));
  return {
    rows: table.rows,
    columns,
    usual: there.has("predicted") ? usual : [...usual, ...columns.map(({ name }) => name).filter((name) => !usual.includes(name)).slice(0, 5)],
    notices,
    read: (column, start, end) => table.read(column.name, start, end),
    whole(column) {
      const whole = wholes.get(column.name) ?? readWhole(table, column);
      wholes.set(column.name, whole);
      return whole;
    },
  };
}

async function readWhole(table: Table, { name, kind }: Column): Promise<Whole> {
  const values = kind === "number" || kind === "truth" ? new Float32Array(table.rows) : new Int32Array(table.rows);
  const places = new Map<string, number>();
  await Promise.all(
    table.stretches.map(async ([start, end]) => {
      const cells = await table.read(name, start, end);
      for (let at = 0; at < cells.length; at++) {
        values[start + at] = kind === "word" ? placeOf(places, String(cells[at] ?? "")) : Number(cells[at] ?? NaN);
      }
    }),
  );
  return { values, words: [...places.keys()] };
}

function placeOf(places: Map<string, number>, word: string): number {
  let place = places.get(word);
  if (place === undefined) {
    place = places.size;
    places.set(word, place);
  }
  return place;
}
