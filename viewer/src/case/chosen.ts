import { useMemo } from "preact/hooks";
import { type Loaded, loaded, useLoaded } from "../loading.tsx";
import type { Numbers } from "../output/output.ts";
import type { Shown } from "./controls.tsx";
import { channelsOf, type Mask, readChannels, readMask, startOf } from "./found.ts";
import { type Grid, nearestVoxel, type Place, planesOf } from "./geometry.ts";
import { chosenLayers, type Layer, layersOf, modeOf, readMap } from "./layers.ts";
import { type Case, namesOf } from "./reading.ts";
import { readScales } from "./scales.ts";
import type { Settings } from "./settings.ts";
import { presetsOf } from "./windows.ts";

/** Everything but the tool, which is no part of the address. */
type InAddress = Omit<Shown, "tool">;

/** What is shown of a case by its settings, and by the page's own choice where these say nothing. */
export function useChosen(one: Case, settings: Settings, target: number, grid: Grid) {
  const isSlide = one.output.variables.has("slide_overview");
  const layers = useMemo(() => layersOf(one.output, target), [one, target]);
  const planes = useMemo(() => planesOf(grid).slice(0, isSlide ? 1 : 3), [grid]); // tiles have no order across themselves
  const mode = modeOf(settings.mode, layers, grid);
  const some = chosenLayers(layers, settings, grid);
  const asked = planes.filter(({ name }) => settings.planes?.includes(name) ?? true);
  const mask = useLoaded(() => readMask(one), [one]);
  const scales = useLoaded(() => readScales(one.output), [one.output]);
  const image = useImage(one, settings);
  const start = useStart(one, grid, mask, some[0]);
  const shown: InAddress = {
    target,
    mode,
    opacity: settings.opacity ?? 0.8,
    planes: asked.length ? asked : planes.slice(0, 1),
    layers: some,
    channel: image.channel,
    window: image.window,
    zoom: settings.zoom ?? 1,
    smooth: settings.smooth ?? false,
    mask: settings.mask ?? true,
  };
  return {
    ...image,
    isSlide,
    shown,
    layers,
    planes,
    mask,
    scales: loaded(scales) ?? null,
    waits: scales === undefined,
    middle: useMemo(() => grid.sides.map((side) => (side - 1) / 2), [grid]),
    cursor: nearestVoxel(grid, grid.space.map((axis, at) => settings.cursor?.[axis] ?? start[at]!)),
    targets: namesOf(one.output, "target"),
  };
}

/** The image by the channel and the window that are set, with the windows of its values. */
function useImage(one: Case, settings: Settings) {
  const channels = useMemo(() => channelsOf(one), [one]);
  const channel = channels.includes(settings.channel ?? "") ? settings.channel! : channels[0]!;
  const read = useLoaded(() => readChannels(one, channel), [one, channel]);
  const values = loaded(read);
  const presets = useMemo(() => (values ? presetsOf(joined(values)) : []), [values]);
  const window = settings.window ?? presets[0]?.window;
  const image = useMemo(() => (values && window ? { channels: values, window } : undefined), [values, window?.centre, window?.width]);
  return { channels, channel, presets, window, image, range: presets[1]?.window.width ?? 1, error: read instanceof Error ? read : undefined };
}

/** The place that the case is opened at; the middle until the mask, or without one a map, has been read. */
function useStart(one: Case, grid: Grid, mask: Loaded<Mask | null>, layer: Layer | undefined): Place {
  const isRead = mask !== undefined;
  const start = useLoaded(async () => {
    if (!isRead) return undefined;
    const map = layer && !loaded(mask) ? await readMap(one, layer).catch(() => undefined) : undefined;
    return startOf(grid, loaded(mask) ?? null, map);
  }, [grid, isRead]);
  return loaded(start) ?? grid.sides.map((side) => Math.floor(side / 2));
}

function joined(values: readonly Numbers[]): Float32Array {
  const all = new Float32Array(values.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const one of values) {
    all.set(one, at);
    at += one.length;
  }
  return all;
}
