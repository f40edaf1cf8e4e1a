import { type Grid, gridOf } from "../case/geometry.ts";
import type { Output } from "../output/output.ts";
import { isSpace } from "./arrays.ts";

const MOST_IMAGES = 20_000;

/** The grid of the cohort: with a place in the patient where all its images lie in the same way. */
export async function commonGrid(output: Output): Promise<Grid | undefined> {
  const maps = output.variables.get("attribution") ?? output.variables.get("image");
  if (!maps) return undefined;
  const space = maps.dims.filter(isSpace);
  const sides = space.map((dim) => maps.shape[maps.dims.indexOf(dim)]!);
  const plain = gridOf(space, sides);
  if (!output.variables.has("affine") || output.images > MOST_IMAGES) return plain;
  const [{ data }, voxel] = await Promise.all([output.read("affine"), output.labels("voxel")]);
  const grids = Array.from({ length: output.images }, (_, row) =>
    gridOf(space, sides, (data as Float64Array).subarray(16 * row, 16 * row + 16), voxel),
  );
  const placed = grids.filter(({ patient }) => patient);
  const ways = new Set(placed.map(({ patient }) => JSON.stringify(patient)));
  return ways.size === 1 ? placed[0] : plain;
}
