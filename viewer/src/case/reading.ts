import { Refusal } from "../output/errors.ts";
import type { Numbers, Output, Values, Variable } from "../output/output.ts";

/** One image of a store: its row, and its arrays, of which each part is read once. */
export interface Case {
  readonly output: Output;
  readonly row: number;
  readonly image: string;
  numbers(name: string, at?: Readonly<Record<string, number>>): Promise<Values<Numbers>>;
  texts(name: string, at?: Readonly<Record<string, number>>): Promise<Values<string[]>>;
}

export function caseOf(output: Output, row: number, image: string): Case {
  const found = new Map<string, Promise<Values<Numbers | string[]>>>();
  const read = (name: string, at: Readonly<Record<string, number>> = {}) => {
    const key = JSON.stringify([name, at]);
    let values = found.get(key);
    if (!values) {
      values = output.read(name, { image_id: row, ...at }).catch((error: unknown) => {
        throw error instanceof Refusal ? error : damaged(name, error);
      });
      found.set(key, values);
    }
    return values;
  };
  return {
    output,
    row,
    image,
    numbers: (name, at) => read(name, at) as Promise<Values<Numbers>>,
    texts: (name, at) => read(name, at) as Promise<Values<string[]>>,
  };
}

function damaged(name: string, error: unknown): Refusal {
  const why = error instanceof Error ? error.message : String(error);
  return new Refusal(
    "A part of the store is damaged",
    `The part of ${name} that holds this image cannot be read (${why}): run \`cohortlens verify --repair OUTPUT\`.`,
  );
}

export function missing(name: string): Refusal {
  return new Refusal(
    "A part of the store is missing",
    `The store says that this image was explained, but its part of ${name} is not there. A run that is still at work brings it; if none is, run \`cohortlens verify --repair OUTPUT\`.`,
  );
}

/** The arrays of a store with a value, or an array, of each image. */
export function ofImages({ variables }: Output): Variable[] {
  return [...variables.values()].filter(({ name, dims }) => dims[0] === "image_id" && name !== "image_id");
}

export function kindOf({ attributes }: Variable): string {
  return String(attributes.kind ?? "");
}

export function titleOf({ name, attributes }: Variable): string {
  return String(attributes.long_name ?? name);
}

const SMALL = 512;

/** Whether an array has so few values of each image that a table of them can be read. */
export function isSmall({ shape }: Variable): boolean {
  return shape.slice(1).reduce((product, side) => product * side, 1) <= SMALL;
}

/** The names along a dimension that the store states beside its arrays; its numbers where the places have none. */
export function namesOf(output: Output, dim: string): string[] {
  const names = output.attributes[`${dim}_names`];
  if (Array.isArray(names)) return names.map(String);
  const size = [...output.variables.values()].find(({ dims }) => dims.includes(dim));
  return Array.from({ length: size?.shape[size.dims.indexOf(dim)] ?? 0 }, (_, at) => String(at));
}
