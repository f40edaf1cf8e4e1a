import { decompress } from "fzstd";
import { type AsyncBuffer, type FileMetaData, parquetMetadataAsync, parquetReadObjects, parquetScan, type ParquetScan } from "hyparquet";
import { Refusal } from "./errors.ts";
import { changed, fetchFile } from "./fetching.ts";

/** The bytes at the end of a file that are read first: what describes it is there, and where its pages begin. */
const TAIL = 64 * 1024;

const compressors = { ZSTD: (data: Uint8Array, length: number) => decompress(data, new Uint8Array(length)) };

export type Cells = ArrayLike<string | number | boolean | null | undefined>;

/** A Parquet file on the server, of which only what is asked for is fetched. */
export interface Table {
  readonly rows: number;
  /** First row, and the row after the last, of the parts that are stored together. */
  readonly stretches: readonly (readonly [number, number])[];
  readonly names: readonly string[];
  /** What `cohortlens` says of it; undefined in a file that it did not describe. */
  readonly told: unknown;
  /** Reads some rows of a column; it fetches the pages they are in. */
  read(column: string, start: number, end: number): Promise<Cells>;
  /** Reads the rows at which a column has a value. Pages whose least and greatest value exclude it are not fetched. */
  find(column: string, value: string): Promise<Record<string, unknown>[]>;
}

/** Opens a table; undefined if there is none. */
export async function openTable(url: URL): Promise<Table | undefined> {
  const file = await openFile(url);
  if (!file) return undefined;
  let scan: ParquetScan;
  try {
    const metadata = await parquetMetadataAsync(file, { initialFetchSize: TAIL });
    scan = await parquetScan({ file, metadata, compressors });
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal("A table is damaged", `${url} is no Parquet file. Run the command of the run again: it writes the file anew.`);
  }
  return {
    rows: Number(scan.metadata.num_rows),
    stretches: scan.ranges.map(({ rowStart, rowEnd }) => [rowStart, rowEnd] as const),
    names: topLevel(scan.metadata),
    told: toldOf(scan.metadata),
    read: (column, start, end) => readStretches(scan, column, start, end),
    find: (column, value) =>
      parquetReadObjects({ file, metadata: scan.metadata, compressors, filter: { [column]: { $eq: value } }, usePageIndex: true }),
  };
}

async function readStretches(scan: ParquetScan, column: string, start: number, end: number): Promise<Cells> {
  const stretches = scan.ranges
    .map(({ rowStart, rowEnd }) => ({ column, rowStart: Math.max(start, rowStart), rowEnd: Math.min(end, rowEnd) }))
    .filter(({ rowStart, rowEnd }) => rowStart < rowEnd);
  const parts = await Promise.all(stretches.map((stretch) => scan.readColumn(stretch)));
  return parts.length === 1 ? (parts[0] as Cells) : parts.flatMap((part) => Array.from(part as Cells));
}

async function openFile(url: URL): Promise<AsyncBuffer | undefined> {
  const last = await fetchFile(new Request(url, { headers: { Range: `bytes=-${TAIL}` } }));
  if (last.status === 404) return undefined;
  const tail = await last.arrayBuffer();
  const byteLength = Number(last.headers.get("Content-Range")?.split("/")[1] ?? NaN);
  if (!last.ok || !byteLength) throw new Refusal("The server failed", `${url} was answered by ${last.status}.`);
  const from = byteLength - tail.byteLength;
  return {
    byteLength,
    async slice(start, end = byteLength) {
      if (start >= from) return tail.slice(start - from, end - from);
      const part = await fetchFile(new Request(url, { headers: { Range: `bytes=${start}-${end - 1}` } }));
      if (!part.ok) throw changed(url);
      return part.arrayBuffer();
    },
  };
}

function topLevel(metadata: FileMetaData): string[] {
  return [...new Set(metadata.row_groups.flatMap((group) => group.columns.map((one) => one.meta_data!.path_in_schema[0]!)))];
}

function toldOf(metadata: FileMetaData): unknown {
  const text = metadata.key_value_metadata?.find(({ key }) => key === "cohortlens")?.value;
  return text === undefined ? undefined : JSON.parse(text);
}
