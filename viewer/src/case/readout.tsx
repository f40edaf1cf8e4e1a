import type { Numbers } from "../output/output.ts";
import { type Grid, millimetres, offsetOf, type Place } from "./geometry.ts";
import { rounded } from "./numbers.ts";

/** Values on the grid that are told at the cursor, under a name. */
export interface Told {
  readonly title: string;
  readonly values: Numbers;
}

/** Tells the values under the pointer, or at the crosshair: the place in voxels and mm, and each array there. */
export function Readout({ grid, at, told }: { grid: Grid; at: Place; told: readonly Told[] }) {
  const place = millimetres(grid, at);
  const offset = offsetOf(grid, at);
  return (
    <dl class="readout" aria-label="Values under the cursor">
      <Entry title={`voxel ${grid.space.join(", ")}`} text={at.join(", ")} />
      <Entry title="place in mm" text={place ? place.map(inPatient).join(", ") : "not known"} />
      {told.map(({ title, values }) => <Entry key={title} title={title} text={rounded(values[offset]!, 4)} value={values[offset]!} />)}
    </dl>
  );
}

function inPatient(value: number, axis: number): string {
  return `${(value < 0 ? "LPI" : "RAS")[axis]} ${Math.abs(value).toFixed(1)}`;
}

function Entry({ title, text, value }: { title: string; text: string; value?: number }) {
  return (
    <div>
      <dt>{title}</dt>
      <dd data-value={value}>{text}</dd>
    </div>
  );
}
