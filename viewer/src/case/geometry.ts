/**
 * The way an image lies in the patient, by its affine: planes, the letters at their edges, places in mm.
 *
 * Planes are shown by the radiological convention, as the report shows them: the patient's right is on the left of
 * axial and coronal pictures, anterior is on top of axial and on the left of sagittal ones, superior is on top.
 */

export type Place = readonly number[];

/** A grid of voxels: its axes in the order of the store. */
export interface Grid {
  readonly space: readonly string[];
  readonly sides: readonly number[];
  /** Of each axis in mm; 1 where no spacing is known. */
  readonly spacing: readonly number[];
  /** Of each axis, the patient's axis that is nearest (0 right, 1 anterior, 2 superior), and whether along or against it. */
  readonly patient: readonly { readonly axis: number; readonly towards: 1 | -1 }[] | undefined;
  /** Columns of mm in RAS by step along each axis, and the place of the first voxel's centre. */
  readonly columns: readonly (readonly number[])[] | undefined;
  readonly origin: readonly number[] | undefined;
  readonly isOblique: boolean;
}

/** One way to cut a grid: which axes run down and to the right, and which of both are turned round. */
export interface Plane {
  readonly name: string;
  readonly across: number | undefined;
  readonly rows: number;
  readonly columns: number;
  readonly turnsRows: boolean;
  readonly turnsColumns: boolean;
  /** The patient's directions at the top, right, bottom and left. */
  readonly letters: readonly [string, string, string, string] | undefined;
}

const ENDS = [["R", "L"], ["A", "P"], ["S", "I"]] as const;
const NAMES = ["sagittal", "coronal", "axial"];
const STRAIGHT = Math.cos((5 * Math.PI) / 180);
const THICK = 1.5;

/**
 * Describes the grid of an image.
 *
 * @param affine Values over `world` and `voxel` in C order, 4 x 4, of which `voxel` names the columns; NaN where unknown.
 */
export function gridOf(space: readonly string[], sides: readonly number[], affine?: ArrayLike<number>, voxel: readonly string[] = []): Grid {
  const column = (name: string) => [0, 1, 2].map((world) => affine?.[4 * world + voxel.indexOf(name)] ?? NaN);
  const columns = space.map(column);
  const spacing = columns.map((one) => Math.hypot(...one));
  const patient = columns.flat().every(Number.isFinite) ? nearestAxes(columns, spacing) : undefined;
  if (!patient) {
    return { space, sides, spacing: sides.map(() => 1), patient, columns: undefined, origin: undefined, isOblique: false };
  }
  const isOblique = columns.some((one, at) => Math.max(...one.map(Math.abs)) / spacing[at]! < STRAIGHT);
  return { space, sides, spacing, patient, columns, origin: column("1"), isOblique };
}

/** Gives each axis of a grid the patient's axis that it is nearest to, the surest first; undefined of a flat grid. */
function nearestAxes(columns: readonly number[][], spacing: readonly number[]): Grid["patient"] {
  if (spacing.some((one) => !(one > 0))) return undefined;
  const cosines = columns.flatMap((one, at) => one.map((value, axis) => ({ at, axis, cosine: value / spacing[at]! })));
  cosines.sort((a, b) => Math.abs(b.cosine) - Math.abs(a.cosine));
  const found: { axis: number; towards: 1 | -1 }[] = [];
  const taken = new Set<number>();
  for (const { at, axis, cosine } of cosines) {
    if (found[at] || taken.has(axis)) continue;
    found[at] = { axis, towards: cosine > 0 ? 1 : -1 };
    taken.add(axis);
  }
  return found;
}

/** Lists the planes of a grid: one of a picture, three of a volume, the one that shows it best first. */
export function planesOf(grid: Grid): Plane[] {
  if (grid.space.length === 2) return [planeAcross(grid, undefined)];
  const best = bestAcross(grid);
  const rank = ({ across }: Plane) => (across === best ? 3 : (grid.patient?.[across!]!.axis ?? 0));
  return grid.space.map((_, across) => planeAcross(grid, across)).sort((a, b) => rank(b) - rank(a));
}

/** A volume is cut as it was taken if its slices are much thicker than wide, else into axial slices. */
function bestAcross(grid: Grid): number {
  if (!grid.patient) return grid.space.indexOf("z");
  const [widest, next] = [...grid.spacing.keys()].sort((a, b) => grid.spacing[b]! - grid.spacing[a]!);
  if (grid.spacing[widest!]! > THICK * grid.spacing[next!]!) return widest!;
  return grid.patient.findIndex(({ axis }) => axis === 2);
}

function planeAcross(grid: Grid, across: number | undefined): Plane {
  const shown = [...grid.space.keys()].filter((axis) => axis !== across);
  const { patient } = grid;
  if (!patient) {
    const [rows, columns] = shown.sort((a, b) => grid.space[b]!.localeCompare(grid.space[a]!));
    const name = across === undefined ? "picture" : `across ${grid.space[across]}`;
    return { name, across, rows: rows!, columns: columns!, turnsRows: false, turnsColumns: false, letters: undefined };
  }
  const [rows, columns] = shown.sort((a, b) => patient[b]!.axis - patient[a]!.axis);
  const down = patient[rows!]!;
  const right = patient[columns!]!;
  const normal = 3 - down.axis - right.axis;
  const [top, bottom] = ENDS[down.axis]!;
  const [left, end] = ENDS[right.axis]!;
  return {
    name: NAMES[normal]!,
    across,
    rows: rows!,
    columns: columns!,
    turnsRows: down.towards > 0,
    turnsColumns: right.towards > 0,
    letters: [top, end, bottom, left],
  };
}

/** The place in mm of RAS of a voxel's centre. */
export function millimetres({ columns, origin }: Grid, voxel: Place): number[] | undefined {
  if (!columns || !origin?.every(Number.isFinite)) return undefined;
  return origin.map((start, world) => columns.reduce((sum, column, axis) => sum + column[world]! * voxel[axis]!, start));
}

/** The voxel that a continuous place lies in, kept inside the grid. */
export function nearestVoxel(grid: Grid, place: Place): number[] {
  return place.map((value, axis) => Math.min(Math.max(Math.round(value), 0), grid.sides[axis]! - 1));
}

export function isInside(grid: Grid, place: Place): boolean {
  return place.every((value, axis) => value >= -0.5 && value < grid.sides[axis]! - 0.5);
}

/** Index in C order of a voxel. */
export function offsetOf(grid: Grid, voxel: Place): number {
  return voxel.reduce((offset, value, axis) => offset * grid.sides[axis]! + value, 0);
}
