import type { Scale } from "../case/colours.ts";
import type { Grid, Plane } from "../case/geometry.ts";

const SATURATED = 0.005;

/** The scale of maps, all of them together: the strongest half percent of places saturates, as in the report. */
export function scaleOf(maps: readonly Float32Array[]): Scale {
  const size = maps.reduce((sum, map) => sum + map.length, 0);
  const magnitudes = new Float32Array(size);
  let count = 0;
  let signed = false;
  for (const map of maps) {
    for (const value of map) {
      if (!Number.isFinite(value)) continue;
      magnitudes[count++] = Math.abs(value);
      signed ||= value < 0;
    }
  }
  const sorted = magnitudes.subarray(0, count).sort();
  return { limit: sorted[Math.round((1 - SATURATED) * (count - 1))] || 1, signed };
}

/** The slice across a plane in which maps are strongest together. */
export function strongestSlice(maps: readonly Float32Array[], grid: Grid, plane: Plane): number {
  if (plane.across === undefined) return 0;
  const depth = grid.sides[plane.across]!;
  const stride = grid.sides.slice(plane.across + 1).reduce((product, side) => product * side, 1);
  const sums = new Float64Array(depth);
  for (const map of maps) map.forEach((value, at) => {
    if (Number.isFinite(value)) sums[Math.floor(at / stride) % depth]! += Math.abs(value);
  });
  return sums.indexOf(Math.max(...sums));
}
