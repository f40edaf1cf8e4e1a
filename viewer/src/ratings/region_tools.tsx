import { useState } from "preact/hooks";
import { useListener } from "../listening.ts";
import type { Tool } from "./drawing.tsx";
import type { Rated } from "./form.tsx";
import { strongest } from "./region.ts";

const TOOLS: readonly (readonly [Tool, string])[] = [["brush", "Brush"], ["erase", "Erase"], ["polygon", "Polygon"]];

/** The tools with which a region is drawn over the pictures, from nothing, the reference, or the strongest places of a map. */
export function RegionTools(rated: Rated) {
  const { drawing, grid } = rated;
  const { mask } = drawing;
  useUndoKey(drawing.undo);
  const places = mask?.reduce((sum, value) => sum + value, 0);
  return (
    <fieldset class="region-tools">
      <legend>The finding, drawn or corrected</legend>
      <div role="group" aria-label="Tool">
        {TOOLS.map(([tool, title]) => (
          <button type="button" key={tool} aria-pressed={drawing.tool === tool} onClick={() => drawing.choose(drawing.tool === tool ? undefined : tool)}>
            {title}
          </button>
        ))}
        <button type="button" disabled={!drawing.canUndo} onClick={drawing.undo}>Undo</button>
      </div>
      <label>
        Width of the brush
        <input type="range" min={0.5} max={30} step={0.5} value={drawing.radius} onInput={(event) => drawing.resize(event.currentTarget.valueAsNumber)} />
        <output>{2 * drawing.radius} {grid.patient ? "mm" : "px"}</output>
      </label>
      <div role="group" aria-label="Start from">
        {rated.mask && <button type="button" onClick={() => drawing.replace(Uint8Array.from(rated.mask!, (value) => Number(value === 1)))}>From the reference</button>}
        {rated.shown.length > 0 && <FromMap {...rated} />}
        <button type="button" onClick={() => drawing.replace(new Uint8Array(sizeOf(rated)))}>There is no finding</button>
        <button type="button" disabled={!mask} onClick={() => drawing.replace(undefined)}>Say nothing</button>
      </div>
      <p role="status">{places === undefined ? "No region is drawn." : places ? `The region has ${places} places.` : "The region is empty: there is no finding."}</p>
    </fieldset>
  );
}

function FromMap({ shown, map, drawing }: Rated) {
  const [name, setName] = useState(shown[0]!);
  const [percent, setPercent] = useState(2);
  const chosen = shown.includes(name) ? name : shown[0]!;
  const take = async () => drawing.replace(strongest(await map(chosen), percent / 100));
  return (
    <span>
      <button type="button" onClick={() => void take()}>From the strongest</button>
      <label>
        <input type="number" min={0.1} max={50} step={0.1} value={percent} aria-label="Percent of the places" onChange={(event) => setPercent(event.currentTarget.valueAsNumber || 2)} /> % of
      </label>
      <select aria-label="Map" value={chosen} onChange={(event) => setName(event.currentTarget.value)}>
        {shown.map((one) => <option key={one}>{one}</option>)}
      </select>
    </span>
  );
}

function useUndoKey(undo: () => void): void {
  useListener("keydown", (event) => {
    const isTyped = event.target instanceof HTMLElement && event.target.matches("input:not([type=range]):not([type=radio]):not([type=checkbox]), textarea");
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || isTyped) return;
    event.preventDefault();
    undo();
  });
}

function sizeOf({ grid }: Rated): number {
  return grid.sides.reduce((product, side) => product * side, 1);
}
