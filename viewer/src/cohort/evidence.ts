import { fetchFile } from "../output/fetching.ts";
import type { Output } from "../output/output.ts";
import { parseCsv } from "./csv.ts";

/** The evidence of all classes together, as the report's table has it. */
export const ALL_CLASSES = "all";
const CONTROLS = "control_";
const METRIC = "metric_";

/** The mean of a metric over maps of an explainer, with its 95 % interval, NaN where it has none. */
export interface Cell {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
  readonly maps: number;
  readonly subjects: number;
  /** It cannot be told from at least one control. */
  readonly isChance: boolean;
}

/** A metric, as its array in the store declares it. */
export interface Column {
  readonly metric: string;
  readonly better: string;
  readonly about: string;
}

/** The metrics of one family, and a row of cells an explainer; controls come last. */
export interface Family {
  readonly name: string;
  readonly columns: readonly Column[];
  readonly rows: readonly { readonly explainer: string; readonly isControl: boolean; readonly cells: readonly Cell[] }[];
}

export interface Evidence {
  readonly classes: readonly string[];
  readonly families: ReadonlyMap<string, readonly Family[]>;
}

/** Reads the table that the report wrote, so that both have the same numbers; nothing where there is none. */
export async function readEvidence(output: Output): Promise<Evidence | null> {
  const answer = await fetchFile(new Request(new URL("report/evidence.csv", output.address)));
  if (!answer.ok) return null;
  return arrangeEvidence(await answer.text(), declaredMetrics(output));
}

export function arrangeEvidence(text: string, metrics: ReadonlyMap<string, readonly Column[]>): Evidence {
  const [names = [], ...lines] = parseCsv(text);
  const rows = lines.map((line) => Object.fromEntries(names.map((name, at) => [name, unguarded(line[at] ?? "")])));
  const hasControls = rows.some((row) => row.explainer?.startsWith(CONTROLS));
  const classes = [...new Set(rows.map((row) => row.class ?? ""))];
  const families = new Map<string, Family[]>();
  for (const ofClass of classes) {
    const own = rows.filter((row) => row.class === ofClass);
    const explainers = [...new Set(own.map((row) => row.explainer ?? ""))];
    explainers.sort((one, other) => Number(one.startsWith(CONTROLS)) - Number(other.startsWith(CONTROLS)));
    const cells = new Map(own.map((row) => [`${row.metric}/${row.explainer}`, cellOf(row, hasControls)]));
    families.set(ofClass, [...metrics].map(([name, columns]) => ({
      name,
      columns,
      rows: explainers.map((explainer) => ({
        explainer,
        isControl: explainer.startsWith(CONTROLS),
        cells: columns.map(({ metric }) => cells.get(`${metric}/${explainer}`) ?? UNKNOWN),
      })),
    })));
  }
  return { classes, families };
}

const UNKNOWN: Cell = { mean: Number.NaN, low: Number.NaN, high: Number.NaN, maps: 0, subjects: 0, isChance: false };

function cellOf(row: Record<string, string>, hasControls: boolean): Cell {
  const number = (name: string) => (row[name] ? Number(row[name]) : Number.NaN);
  const compared = hasControls && !row.explainer?.startsWith(CONTROLS) && !Number.isNaN(number("mean"));
  return {
    mean: number("mean"),
    low: number("low"),
    high: number("high"),
    maps: number("values"),
    subjects: number("patients"),
    isChance: compared && row.differs !== "True",
  };
}

/** Takes off the apostrophe that keeps a spreadsheet from taking a name for a formula. */
function unguarded(cell: string): string {
  return cell.replace(/^'(?=[=+\-@])/, "");
}

/** By family, the metrics that the store declares. */
function declaredMetrics(output: Output): Map<string, Column[]> {
  const families = new Map<string, Column[]>();
  for (const { name, attributes } of output.variables.values()) {
    if (attributes.kind !== "metric") continue;
    const family = String(attributes.family);
    const column = { metric: name.slice(METRIC.length), better: String(attributes.better), about: String(attributes.long_name) };
    families.set(family, [...(families.get(family) ?? []), column]);
  }
  return families;
}
