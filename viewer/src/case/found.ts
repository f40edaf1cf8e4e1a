import { useEffect, useRef, useState } from "preact/hooks";
import { inWords, type Refusal } from "../output/errors.ts";
import type { Numbers } from "../output/output.ts";
import { type Grid, gridOf, type Place } from "./geometry.ts";
import { type FoundMap, type Layer, readMap, spaceOf } from "./layers.ts";
import { type Case, missing, namesOf } from "./reading.ts";

/** The name under which three channels are shown as red, green and blue. */
export const COLOURS = "colours";

/** The mask of a case, and the value of places of images that have none. */
export interface Mask {
  readonly values: Numbers;
  readonly none: number;
}

/** Reads how a case lies in the patient. */
export async function readGrid(one: Case): Promise<Grid> {
  const space = spaceOf(one.output);
  const variable = one.output.variables.get("image")!;
  const sides = space.map((axis) => variable.shape[variable.dims.indexOf(axis)]!);
  if (!one.output.variables.has("affine")) return gridOf(space, sides);
  return gridOf(space, sides, (await one.numbers("affine")).data, namesOf(one.output, "voxel"));
}

/** Names what an image can be shown by: each channel, and its colours first where three have no names of their own. */
export function channelsOf(one: Case): string[] {
  const names = namesOf(one.output, "channel");
  if (names.length !== 3) return names;
  const isColour = ["0,1,2", "r,g,b", "red,green,blue"].includes(names.join().toLowerCase());
  return isColour ? [COLOURS, ...names] : [...names, COLOURS];
}

/** Reads what is shown of an image: one channel, or three. */
export async function readChannels(one: Case, shown: string): Promise<Numbers[]> {
  const names = namesOf(one.output, "channel");
  const chosen = shown === COLOURS ? [...names.keys()] : [Math.max(names.indexOf(shown), 0)];
  const found = await Promise.all(chosen.map((channel) => one.numbers("image", { channel })));
  if (found.every(({ data }) => data.every(Number.isNaN))) throw missing("image");
  return found.map(({ data }) => data);
}

/** Reads the mask; null where the image has none. */
export async function readMask(one: Case): Promise<Mask | null> {
  const variable = one.output.variables.get("mask");
  if (!variable) return null;
  const values = (await one.numbers("mask")).data;
  const meanings = String(variable.attributes.flag_meanings ?? "").split(" ");
  const none = ((variable.attributes.flag_values as number[] | undefined) ?? [])[meanings.indexOf("no_mask")] ?? 255;
  return values.every((value) => value === none) ? null : { values, none };
}

/** The place that a case is opened at: most of the mask; without one, a map's largest magnitude; else the middle. */
export function startOf(grid: Grid, mask: Mask | null, map: FoundMap | undefined): Place {
  const counts = mask ? countMarked(grid, mask) : [];
  if (counts[0]?.some(Boolean)) return counts.map((along) => along.indexOf(Math.max(...along)));
  let peak = -1;
  if (map && !map.words) {
    map.values.forEach((value: number, at: number) => {
      if (Number.isFinite(value) && (peak < 0 || Math.abs(value) > Math.abs(map.values[peak]!))) peak = at;
    });
  }
  return peak < 0 ? grid.sides.map((side) => Math.floor(side / 2)) : placeOf(grid, peak);
}

/** The number of marked voxels at each place along each axis. */
function countMarked(grid: Grid, { values, none }: Mask): number[][] {
  const counts = grid.sides.map((side) => new Array<number>(side).fill(0));
  values.forEach((label: number, at: number) => {
    if (label > 0 && label !== none) placeOf(grid, at).forEach((place, axis) => counts[axis]![place]!++);
  });
  return counts;
}

/** The voxel at an index in C order. */
export function placeOf(grid: Grid, offset: number): number[] {
  return grid.sides.toReversed().map((side) => {
    const at = offset % side;
    offset = (offset - at) / side;
    return at;
  }).reverse();
}

/** Maps as they are found, by the layer's name; each is read when it is first shown. */
export function useMaps(one: Case, layers: readonly Layer[]): ReadonlyMap<Layer["id"], FoundMap | Refusal> {
  const asked = useRef(new Set<string>());
  const [found, setFound] = useState<ReadonlyMap<string, FoundMap | Refusal>>(new Map());
  useEffect(() => {
    for (const layer of layers) {
      const key = keyOf(layer);
      if (asked.current.has(key)) continue;
      asked.current.add(key);
      const keep = (map: FoundMap | Refusal) => setFound((before) => new Map(before).set(key, map));
      readMap(one, layer).then(keep, (error: unknown) => keep(inWords(error)));
    }
  }, [one, layers.map(keyOf).join()]);
  return found;
}

export function keyOf({ id, at }: Layer): string {
  return `${id}@${at.target ?? ""}`;
}
