import { type Grid, offsetOf, type Plane } from "../case/geometry.ts";

/** The radius of a brush in voxels, at which it is one voxel. */
const SMALLEST = 0.5;

/** A region on the grid, as the first place and the length of each run in C order. */
export type Runs = readonly (readonly [number, number])[];

export function runsOf(mask: Uint8Array): Runs {
  const runs: [number, number][] = [];
  for (let at = 0; at < mask.length; at++) {
    if (!mask[at]) continue;
    const start = at;
    while (mask[at + 1]) at++;
    runs.push([start, at + 1 - start]);
  }
  return runs;
}

export function maskOf(runs: Runs, size: number): Uint8Array {
  const mask = new Uint8Array(size);
  for (const [start, length] of runs) mask.fill(1, start, start + length);
  return mask;
}

/** A stretch of a plane, of one slice: voxels, continuous, in the order of the grid's axes. */
export interface Drawn {
  readonly grid: Grid;
  readonly plane: Plane;
  readonly slice: number;
}

/** Paints or erases a disc about each point of a stroke; the radius is in the grid's units, mm or voxels. */
export function brush(mask: Uint8Array, on: Drawn, stroke: readonly (readonly number[])[], radius: number, value: 0 | 1): void {
  const { plane, grid } = on;
  const [reachDown, reachRight] = [radius / grid.spacing[plane.rows]!, radius / grid.spacing[plane.columns]!];
  for (const point of filled(stroke)) {
    const [row, column] = [Math.round(point[plane.rows]!), Math.round(point[plane.columns]!)];
    set(mask, on, nearestTo(row, reachDown), nearestTo(column, reachRight), value, (down, right) => {
      return ((down - row) / Math.max(reachDown, SMALLEST)) ** 2 + ((right - column) / Math.max(reachRight, SMALLEST)) ** 2 <= 1;
    });
  }
}

/** Paints or erases what lies inside a polygon: voxels whose centre does, by the even-odd rule. */
export function polygon(mask: Uint8Array, on: Drawn, corners: readonly (readonly number[])[], value: 0 | 1): void {
  const rows = corners.map((corner) => corner[on.plane.rows]!);
  const columns = corners.map((corner) => corner[on.plane.columns]!);
  const range = (values: number[]): [number, number] => [Math.ceil(Math.min(...values)), Math.floor(Math.max(...values))];
  set(mask, on, range(rows), range(columns), value, (down, right) => isInside(rows, columns, down, right));
}

/** The strongest places of a map: a share of all finite ones, by magnitude; none that are zero. */
export function strongest(map: ArrayLike<number>, share: number): Uint8Array {
  const magnitudes = Float32Array.from(map, Math.abs);
  const known = magnitudes.filter(Number.isFinite).sort();
  const least = known[known.length - Math.max(Math.round(share * known.length), 1)] ?? Infinity;
  return Uint8Array.from(magnitudes, (value) => Number(value >= least && value > 0));
}

function set(
  mask: Uint8Array,
  { grid, plane, slice }: Drawn,
  [top, bottom]: [number, number],
  [left, right]: [number, number],
  value: 0 | 1,
  holds: (row: number, column: number) => boolean,
): void {
  const voxel: number[] = [];
  if (plane.across !== undefined) voxel[plane.across] = slice;
  for (let row = Math.max(top, 0); row <= Math.min(bottom, grid.sides[plane.rows]! - 1); row++) {
    for (let column = Math.max(left, 0); column <= Math.min(right, grid.sides[plane.columns]! - 1); column++) {
      if (!holds(row, column)) continue;
      voxel[plane.rows] = row;
      voxel[plane.columns] = column;
      mask[offsetOf(grid, voxel)] = value;
    }
  }
}

function nearestTo(at: number, reach: number): [number, number] {
  return [Math.floor(at - reach), Math.ceil(at + reach)];
}

/** The points of a stroke, and as many between them that it has no gap. */
function filled(stroke: readonly (readonly number[])[]): number[][] {
  return stroke.flatMap((point, at) => {
    const before = stroke[at - 1] ?? point;
    const count = Math.max(Math.ceil(2 * Math.hypot(...point.map((value, axis) => value - before[axis]!))), 1);
    return Array.from({ length: count }, (_, part) => point.map((value, axis) => before[axis]! + ((value - before[axis]!) * (part + 1)) / count));
  });
}

function isInside(rows: readonly number[], columns: readonly number[], row: number, column: number): boolean {
  let inside = false;
  for (let at = 0, before = rows.length - 1; at < rows.length; before = at++) {
    const [low, high] = [rows[at]!, rows[before]!];
    if (low > row === high > row) continue;
    if (column < columns[at]! + ((row - low) / (high - low)) * (columns[before]! - columns[at]!)) inside = !inside;
  }
  return inside;
}
