import * as zarr from "zarrita";
import "./codecs.ts";
import { Refusal } from "./errors.ts";
import { fetchFile, isForbidden } from "./fetching.ts";

export const LAYOUT = 9;

export interface Variable {
  readonly name: string;
  readonly dims: readonly string[];
  readonly shape: readonly number[];
  readonly attributes: Readonly<Record<string, unknown>>;
}

/** Values in C order over `dims`, the dimensions at which no index was chosen. */
export interface Values<Data = Float32Array> {
  readonly data: Data;
  readonly dims: readonly string[];
  readonly shape: readonly number[];
}

export type Numbers = Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array;

/** An output folder as it is served: the Zarr store, and the files beside it. */
export class Output {
  readonly address: URL;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly variables: ReadonlyMap<string, Variable>;
  readonly #arrays = new Map<string, Promise<zarr.Array<zarr.DataType, zarr.AsyncReadable>>>();
  readonly #root: zarr.Location<zarr.AsyncReadable>;

  constructor(address: URL, root: zarr.Location<zarr.AsyncReadable>, metadata: Metadata) {
    this.address = address;
    this.attributes = metadata.attributes;
    this.variables = new Map(
      Object.entries(metadata.consolidated_metadata?.metadata ?? {})
        .filter(([, found]) => found.node_type === "array")
        .map(([name, found]) => [name, { name, dims: found.dimension_names, shape: found.shape, attributes: found.attributes }]),
    );
    this.#root = root;
  }

  get images(): number {
    return this.variables.get("image_id")?.shape[0] ?? 0;
  }

  /** Reads an array, or the part of it at some indices of its dimensions. */
  async read(name: string, at: Readonly<Record<string, number>> = {}): Promise<Values<Numbers | string[]>> {
    const variable = this.variables.get(name);
    if (!variable) throw new Refusal("Not in the store", `The store has no array ${name}.`);
    const selection = variable.dims.map((dim) => at[dim] ?? null);
    const found = await this.#get(name, selection);
    const dims = variable.dims.filter((dim) => !(dim in at));
    if (!isChunk(found)) return { data: scalar(found), dims, shape: [] };
    return { data: found.data as unknown as Numbers | string[], dims, shape: found.shape };
  }

  /** The labels along a dimension, such as the names of the explainers. */
  async labels(dim: string): Promise<string[]> {
    const labels = [...(await this.read(dim)).data].map(String);
    if (labels.length && labels.every((label) => !label)) throw damaged(`The names along ${dim} are missing`);
    return labels;
  }

  async #get(name: string, selection: (number | null)[]) {
    try {
      return await zarr.get(await this.#open(name), selection);
    } catch (error) {
      if (error instanceof Refusal) throw error;
      throw damaged(`The array ${name} cannot be read (${error instanceof Error ? error.message : String(error)})`);
    }
  }

  #open(name: string) {
    let array = this.#arrays.get(name);
    if (!array) {
      array = zarr.open.v3(this.#root.resolve(name), { kind: "array" });
      this.#arrays.set(name, array);
    }
    return array;
  }
}

interface Metadata {
  readonly attributes: Record<string, unknown>;
  readonly consolidated_metadata?: {
    readonly metadata: Record<
      string,
      { node_type: string; shape: number[]; dimension_names: string[]; attributes: Record<string, unknown> }
    >;
  };
}

export async function openOutput(address: URL): Promise<Output> {
  const url = new URL("explanations.zarr/", address);
  const store = new zarr.FetchStore(url, { fetch: fetchFile, useSuffixRequest: true });
  const bytes = await store.get("/zarr.json");
  if (!bytes) throw noStore(url);
  const metadata = parse(bytes, url);
  checkLayout(metadata.attributes);
  if (!metadata.consolidated_metadata?.metadata) throw damaged("The store's list of its arrays is missing");
  const consolidated = await zarr.withMaybeConsolidatedMetadata(store, { format: "v3" });
  return new Output(address, zarr.root(consolidated), metadata);
}

function noStore(url: URL): Refusal {
  const described = new URL("zarr.json", url);
  if (!isForbidden(described)) {
    return new Refusal("No store here", `${url} has no store: is the run still being planned, or has the folder been moved?`);
  }
  return new Refusal(
    "The store cannot be read",
    `${described} was answered by 403: the server keeps it back, or it is not there and the bucket does not say so. Who reads this page has to be allowed to read explanations.zarr, viewer, report, commits and plan.json as well, each of them whole; a link that opens one file does not do.`,
  );
}

function checkLayout({ layout, source }: Readonly<Record<string, unknown>>): void {
  if (layout === LAYOUT) return;
  if (typeof layout !== "number") {
    throw new Refusal("No store of cohortlens", "The Zarr store here does not say which layout it has: it is not one that cohortlens wrote.");
  }
  const what = `The store has layout ${layout}, written by ${String(source)}, and this page reads layout ${LAYOUT}`;
  if (layout > LAYOUT) {
    throw new Refusal("A store of a newer layout", `${what}: this page is older than the store. Open it by \`cohortlens view\` of that version, and clear the browser's cache if it kept an old page.`);
  }
  throw new Refusal("A store of an older layout", `${what}: open it by \`cohortlens view\` of the version that wrote it, or run it again.`);
}

function parse(bytes: Uint8Array, url: URL): Metadata {
  try {
    const metadata = JSON.parse(new TextDecoder().decode(bytes)) as Partial<Metadata> | null;
    return { ...metadata, attributes: metadata?.attributes ?? {} };
  } catch {
    throw damaged(`${new URL("zarr.json", url)} is no JSON`);
  }
}

function damaged(what: string): Refusal {
  return new Refusal("The store is damaged", `${what}: run \`cohortlens verify --repair OUTPUT\`.`);
}

function isChunk(found: unknown): found is zarr.Chunk<zarr.DataType> {
  return typeof found === "object" && found !== null && "data" in found;
}

function scalar(found: unknown): Numbers | string[] {
  return typeof found === "string" ? [found] : Float64Array.of(Number(found));
}
