import type { Grid, Place, Plane } from "./geometry.ts";

/** Zoom about a voxel, the same in all panels: 1 shows the whole plane. */
export interface Zoom {
  readonly factor: number;
  readonly centre: Place;
}

/** The way of a plane onto a panel of some pixels, and back. */
export interface Projection {
  readonly grid: Grid;
  readonly plane: Plane;
  readonly slice: number;
  readonly width: number;
  readonly height: number;
  /** Pixels of the panel by step along the columns and the rows, and where the picture's upper left corner lies. */
  readonly scale: readonly [number, number];
  readonly corner: readonly [number, number];
}

export function project(grid: Grid, plane: Plane, slice: number, width: number, height: number, zoom: Zoom): Projection {
  const [wide, high] = extent(grid, plane);
  const perUnit = Math.min(width / wide, height / high) * zoom.factor;
  const scale = [grid.spacing[plane.columns]! * perUnit, grid.spacing[plane.rows]! * perUnit] as const;
  const [column, row] = onPlane(grid, plane, zoom.centre);
  return { grid, plane, slice, width, height, scale, corner: [width / 2 - column * scale[0], height / 2 - row * scale[1]] };
}

/** Width and height of a plane in mm, or in voxels where no spacing is known. */
export function extent({ sides, spacing }: Grid, { rows, columns }: Plane): [number, number] {
  return [sides[columns]! * spacing[columns]!, sides[rows]! * spacing[rows]!];
}

/** The voxel, continuous, whose centre is at whole numbers, that lies below a point of the panel. */
export function toVoxel({ grid, plane, slice, scale, corner }: Projection, x: number, y: number): number[] {
  const column = (x - corner[0]) / scale[0];
  const row = (y - corner[1]) / scale[1];
  const voxel: number[] = [];
  if (plane.across !== undefined) voxel[plane.across] = slice;
  voxel[plane.columns] = (plane.turnsColumns ? grid.sides[plane.columns]! - column : column) - 0.5;
  voxel[plane.rows] = (plane.turnsRows ? grid.sides[plane.rows]! - row : row) - 0.5;
  return voxel;
}

/** The point of the panel at which a voxel's centre lies. */
export function toPoint({ grid, plane, scale, corner }: Projection, voxel: Place): [number, number] {
  const [column, row] = onPlane(grid, plane, voxel);
  return [corner[0] + column * scale[0], corner[1] + row * scale[1]];
}

function onPlane(grid: Grid, plane: Plane, voxel: Place): [number, number] {
  const column = voxel[plane.columns]! + 0.5;
  const row = voxel[plane.rows]! + 0.5;
  return [plane.turnsColumns ? grid.sides[plane.columns]! - column : column, plane.turnsRows ? grid.sides[plane.rows]! - row : row];
}

/** A zoom by another factor, under which the point of the panel stays where it is. */
export function zoomAt(projection: Projection, zoom: Zoom, factor: number, x: number, y: number): Zoom {
  const held = toVoxel(projection, x, y);
  const share = zoom.factor / factor;
  return { factor, centre: zoom.centre.map((value, axis) => (axis === projection.plane.across ? value : held[axis]! + share * (value - held[axis]!))) };
}

/** A zoom under which the picture is moved by some pixels. */
export function pan(projection: Projection, zoom: Zoom, right: number, down: number): Zoom {
  const from = toVoxel(projection, right, down);
  const to = toVoxel(projection, 0, 0);
  return { factor: zoom.factor, centre: zoom.centre.map((value, axis) => (axis === projection.plane.across ? value : value + to[axis]! - from[axis]!)) };
}

const STEPS = [1, 2, 5];

/** The length of a scale bar in mm (or voxels): the longest of 1, 2, 5, 10 … that fills less than a quarter of the panel. */
export function barLength({ grid, plane, scale, width }: Projection): number {
  const most = width / 4 / (scale[0] / grid.spacing[plane.columns]!);
  const power = 10 ** Math.floor(Math.log10(most));
  return power * (STEPS.findLast((step) => step * power <= most) ?? 1);
}
