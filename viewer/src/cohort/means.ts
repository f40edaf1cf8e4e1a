import type { Output, Variable } from "../output/output.ts";

const MOST_VALUES = 2 ** 23;
const ACROSS = ["image_id", "target"];

/** Arrays of each image's regions, grouped by the dimensions that their means over the cohort have. */
export function regionTables(output: Output): { dims: string[]; columns: Variable[] }[] {
  const found = new Map<string, { dims: string[]; columns: Variable[] }>();
  for (const variable of output.variables.values()) {
    if (variable.attributes.kind !== "region") continue;
    const dims = keptDims(variable);
    const table = found.get(dims.join()) ?? { dims, columns: [] };
    table.columns.push(variable);
    found.set(dims.join(), table);
  }
  return [...found.values()];
}

export function isTooLarge({ shape }: Variable): boolean {
  return size(shape, [...shape.keys()]) > MOST_VALUES;
}

/** Averages an array over its images and targets, in C order of what is left; NaN counts nowhere. */
export async function meansOf(output: Output, { name, dims, shape }: Variable): Promise<Float64Array> {
  const { data } = await output.read(name);
  const axes = [...dims.keys()];
  const kept = axes.filter((axis) => !ACROSS.includes(dims[axis]!));
  const strides = axes.map((axis) => size(shape, axes.filter((one) => one > axis)));
  const steps = axes.map((axis) => (kept.includes(axis) ? size(shape, kept.filter((one) => one > axis)) : 0));
  const sums = new Float64Array(size(shape, kept));
  const counts = new Float64Array(sums.length);
  for (let at = 0; at < data.length; at++) {
    const value = Number(data[at]);
    if (!Number.isFinite(value)) continue;
    const place = axes.reduce((sum, axis) => sum + (Math.floor(at / strides[axis]!) % shape[axis]!) * steps[axis]!, 0);
    sums[place]! += value;
    counts[place]!++;
  }
  return sums.map((sum, at) => sum / counts[at]!);
}

function keptDims({ dims }: Variable): string[] {
  return dims.filter((dim) => !ACROSS.includes(dim));
}

function size(shape: readonly number[], axes: readonly number[]): number {
  return axes.reduce((product, axis) => product * shape[axis]!, 1);
}
