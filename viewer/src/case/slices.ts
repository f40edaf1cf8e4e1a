import type { Grid, Plane } from "./geometry.ts";

/** A picture of one slice: `values[row * width + column]`, as the plane shows it. */
export interface Slice {
  readonly values: Float32Array;
  readonly width: number;
  readonly height: number;
}

/** Cuts a slice out of values on the grid, in C order. */
export function cut(values: ArrayLike<number>, grid: Grid, plane: Plane, at: number): Slice {
  const strides = grid.sides.map((_, axis) => grid.sides.slice(axis + 1).reduce((product, side) => product * side, 1));
  const height = grid.sides[plane.rows]!;
  const width = grid.sides[plane.columns]!;
  const start = plane.across === undefined ? 0 : at * strides[plane.across]!;
  const found = new Float32Array(width * height);
  for (let row = 0; row < height; row++) {
    const down = start + (plane.turnsRows ? height - 1 - row : row) * strides[plane.rows]!;
    for (let column = 0; column < width; column++) {
      found[row * width + column] = values[down + (plane.turnsColumns ? width - 1 - column : column) * strides[plane.columns]!]!;
    }
  }
  return { values: found, width, height };
}

/** Lines along the edges between places of a label and all others: pairs of ends in columns and rows of the slice. */
export function outline({ values, width, height }: Slice, label: number): Float32Array {
  const ends: number[] = [];
  const holds = (row: number, column: number) =>
    row >= 0 && column >= 0 && row < height && column < width && values[row * width + column] === label;
  for (let row = 0; row <= height; row++) {
    for (let column = 0; column <= width; column++) {
      const here = holds(row, column);
      if (here !== holds(row - 1, column)) ends.push(column, row, column + 1, row);
      if (here !== holds(row, column - 1)) ends.push(column, row, column, row + 1);
    }
  }
  return Float32Array.from(ends);
}
