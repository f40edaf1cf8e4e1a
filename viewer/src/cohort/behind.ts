import type { Output, Variable } from "../output/output.ts";
import { type Listing, openListing } from "../worklist/listing.ts";
import { worklistLink } from "./links.ts";

/** The address of the cases that a label along a dimension of an array stands for; undefined where the worklist cannot tell. */
export type Behind = (of: Variable, dim: string, label: string) => string | undefined;

const SEPARATOR = "|";
const MOST_LABELS = 20;
const MOST_COLUMNS = 256;

/** Finds the cases behind the labels of an output's dimensions: of a class, a concept, a measure or a cluster. */
export async function casesBehind(output: Output): Promise<Behind> {
  const classes = (output.attributes.class_names ?? []) as string[];
  const clusters = clusterings(output);
  const listing = await openListing(output);
  const needs = (of: string) => [...output.variables.values()].some(({ attributes }) => attributes.class_of === of);
  const labels = hasConcepts(output) || needs("label") ? await wordsOf(listing, "label") : [];
  const predicted = needs("prediction") ? await wordsOf(listing, "predicted") : [];
  return ({ attributes }, dim, label) => {
    if (dim === "class" && classes.includes(label)) {
      if (attributes.class_of === "target") return ofTarget(listing, label);
      if (attributes.class_of === "prediction") return naming(predicted, label, "predicted");
      return attributes.class_of === "label" ? naming(labels, label, "label") : undefined;
    }
    if (dim.endsWith("_concept")) return naming(labels, label, "label");
    if (dim.endsWith("_measure")) return worklistLink([], `-measure/${label}`);
    const clustering = clusters.get(dim);
    return clustering && worklistLink([`${clustering}:min:${label}`, `${clustering}:max:${label}`]);
  };
}

/** The worklist, sorted by the values of an array at a place, the largest first; undefined where it has no such column. */
export function valuesBehind(output: Output, { name, dims, shape }: Variable, at: Readonly<Record<string, string>>): string | undefined {
  const columns = shape.slice(1).reduce((product, size) => product * size, 1);
  if (columns > MOST_COLUMNS) return undefined;
  const [target = ""] = targetsOf(output);
  return worklistLink([], `-${[name, ...dims.slice(1).map((dim) => at[dim] ?? target)].join("/")}`);
}

export function targetsOf(output: Output): readonly string[] {
  return (output.attributes.target_names ?? []) as string[];
}

/** Images of which a column names a class or concept, alone or beside others. */
function naming(words: readonly string[], name: string, column: string): string | undefined {
  const found = words.filter((word) => word.split(SEPARATOR).includes(name));
  if (!found.length || found.length > MOST_LABELS) return undefined;
  return worklistLink(found.map((word) => `${column}:is:${word}`));
}

/** Images of which a class was explained: by the only target, or by the one of several that is named as the class is. */
function ofTarget({ columns }: Listing, name: string): string | undefined {
  const targets = columns.filter((column) => column.name.startsWith("target_class/"));
  const own = targets.length === 1 ? targets[0] : targets.find((column) => column.name === `target_class/${name}`);
  return own && worklistLink([`${own.name}:is:${name}`]);
}

function hasConcepts({ variables }: Output): boolean {
  return [...variables.values()].some(({ dims }) => dims.some((dim) => dim.endsWith("_concept")));
}

async function wordsOf(listing: Listing, name: string): Promise<readonly string[]> {
  const column = listing.columns.find((one) => one.name === name);
  return column ? (await listing.whole(column)).words : [];
}

/** By dimension of clusters, the array that has the cluster of each image. */
function clusterings(output: Output): Map<string, string> {
  const found = new Map<string, string>();
  const all = [...output.variables.values()];
  for (const { name, dims, attributes } of all) {
    if (!attributes.shortcuts || dims.join() !== "image_id") continue;
    const described = all.find((one) => one.attributes.shortcuts === attributes.shortcuts && one.dims[0] !== "image_id");
    if (described) found.set(described.dims[0]!, name);
  }
  return found;
}
