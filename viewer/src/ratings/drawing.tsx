import { useMemo, useState } from "preact/hooks";
import type { Grid } from "../case/geometry.ts";
import type { Overlay } from "../case/image.tsx";
import { Layer } from "./layer.tsx";
import { maskOf, type Runs, runsOf } from "./region.ts";

export type Tool = "brush" | "erase" | "polygon";

/** A change of the region in place, such as a stroke. */
export type Change = (mask: Uint8Array) => void;

/** The region that a reader draws, with all that was done to it. */
export interface Drawing {
  /** Undefined until something is drawn; without places: the reader says that there is no finding. */
  readonly mask: Uint8Array | undefined;
  readonly tool: Tool | undefined;
  readonly radius: number;
  readonly canUndo: boolean;
  choose(tool: Tool | undefined): void;
  resize(radius: number): void;
  change(change: Change): void;
  replace(mask: Uint8Array | undefined): void;
  undo(): void;
}

interface State {
  readonly now: Runs | undefined;
  readonly past: readonly (Runs | undefined)[];
}

const MOST_UNDONE = 100;

/** Keeps a region of a grid that is drawn, and makes the layer that is drawn on. */
export function useDrawing(grid: Grid): { drawing: Drawing; overlay: Overlay | undefined } {
  const [{ now, past }, setState] = useState<State>({ now: undefined, past: [] });
  const [tool, choose] = useState<Tool>();
  const [radius, resize] = useState(3);
  const size = grid.sides.reduce((product, side) => product * side, 1);
  const mask = useMemo(() => now && maskOf(now, size), [now, size]);
  const next = (make: (now: Runs | undefined) => Runs | undefined) =>
    setState((state) => ({ now: make(state.now), past: [...state.past, state.now].slice(-MOST_UNDONE) }));
  const drawing: Drawing = {
    mask,
    tool,
    radius,
    canUndo: past.length > 0,
    choose,
    resize,
    replace: (found) => next(() => found && runsOf(found)),
    change: (change) =>
      next((before) => {
        const changed = maskOf(before ?? [], size);
        change(changed);
        return runsOf(changed);
      }),
    undo: () => setState((state) => ({ now: state.past.at(-1), past: state.past.slice(0, -1) })),
  };
  const overlay: Overlay | undefined = mask || tool ? (surface) => <Layer surface={surface} drawing={drawing} /> : undefined;
  return { drawing, overlay };
}
