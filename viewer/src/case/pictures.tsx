import { useState } from "preact/hooks";
import { loaded, useLoaded } from "../loading.tsx";
import { useChosen } from "./chosen.ts";
import { Controls, type Shown } from "./controls.tsx";
import { keyOf, type Mask, readGrid, useMaps } from "./found.ts";
import type { Grid, Place, Plane } from "./geometry.ts";
import type { Tool } from "./gestures.ts";
import type { Overlay } from "./image.tsx";
import { useKeys } from "./keys.ts";
import { ImagePanel, MapPanel, type Shared } from "./panels.tsx";
import { Readout, type Told } from "./readout.tsx";
import type { Case } from "./reading.ts";
import { sharedScale } from "./scales.ts";
import { clamp, MOST_ZOOM, type Settings } from "./settings.ts";
import { SlidePanel } from "./slide.tsx";
import type { Change } from "./view.ts";
import type { Window } from "./windows.ts";

interface PicturesProps {
  readonly one: Case;
  readonly settings: Settings;
  readonly change: Change;
  readonly target: number;
  readonly overlay: Overlay | undefined;
}

/** The pictures of a case: loads how the image lies, and then shows what is chosen. */
export function Pictures(props: PicturesProps) {
  const grid = useLoaded(() => readGrid(props.one), [props.one]);
  if (grid === undefined) return <section class="pictures"><p role="status">Loading the geometry …</p></section>;
  if (grid instanceof Error) return <section class="pictures"><p class="panel-words" role="alert">{grid.message}</p></section>;
  return <Chosen {...props} grid={grid} />;
}

function Chosen({ one, settings, change, target, overlay, grid }: PicturesProps & { grid: Grid }) {
  const view = useChosen(one, settings, target, grid);
  const { shown, image, mask, layers } = view;
  const [hover, setHover] = useState<Place>();
  const [tool, setTool] = useState<Tool>("cursor");
  const maps = useMaps(one, shown.layers);
  const cursor = view.cursor;
  const at = hover ?? cursor;
  const setCursor = (voxel: Place) => change({ cursor: Object.fromEntries(grid.space.map((axis, place) => [axis, voxel[place]!])) });
  usePictureKeys(shown, change);
  const shared = (plane: Plane): Shared => ({
    grid,
    plane,
    cursor,
    crosshair: hover ?? (grid.space.length === 3 || settings.cursor ? cursor : undefined),
    zoom: { factor: shown.zoom, centre: settings.centre?.length === grid.space.length ? settings.centre : view.middle },
    tool,
    smooth: shown.smooth,
    image,
    mask: (shown.mask && loaded(mask)) || undefined,
    overlay,
    onHover: setHover,
    onCursor: setCursor,
    onZoom: ({ factor, centre }) => change({ zoom: factor, centre }),
    onWindow: (right, down) => shown.window && change({ window: dragged(shown.window, right, down, view.range) }),
  });
  return (
    <section class="pictures" aria-label="Pictures">
      <Controls shown={{ ...shown, tool }} targets={view.targets} layers={layers} planes={view.planes} channels={view.channels} presets={view.presets} hasMask={Boolean(loaded(mask))} change={change} setTool={setTool} />
      {mask instanceof Error && <p class="panel-note" role="alert">{mask.message}</p>}
      {!grid.patient && <p class="panel-note">The image has no geometry: its sides in the patient are not known, so that there are no letters, and lengths are in pixels.</p>}
      {grid.isOblique && <p class="panel-note">The image lies oblique to the patient's axes: planes and letters are the nearest ones.</p>}
      <div class={`planes planes-${shown.mode}`}>
        {shown.planes.map((plane) => (
          <section key={plane.name} class="plane" aria-label={plane.name}>
            {plane.across !== undefined && <Slices grid={grid} plane={plane} cursor={cursor} setCursor={setCursor} />}
            <div class="panels">
              {(shown.mode === "beside" || !shown.layers.length) && <ImagePanel shared={shared(plane)} title={imageTitle(shown)} error={view.error} />}
              {shown.layers.map((layer) => (
                <MapPanel key={keyOf(layer)} shared={shared(plane)} layer={layer} map={maps.get(keyOf(layer))} scale={sharedScale(view.scales, layer)} opacity={shown.mode === "overlay" ? shown.opacity : undefined} waits={view.waits} />
              ))}
            </div>
          </section>
        ))}
        {view.isSlide && (
          <SlidePanel one={one} grid={grid} tile={cursor[0]!} layer={shown.layers[0]} map={shown.layers[0] && maps.get(keyOf(shown.layers[0]))} choose={(tile) => setCursor([tile, ...cursor.slice(1)])} />
        )}
      </div>
      <Readout grid={grid} at={at} told={toldOf(shown, image?.channels ?? [], loaded(mask), maps)} />
    </section>
  );
}

/** Slices of a plane: a slider, which wheel, page keys and the crosshair move as well. */
function Slices({ grid, plane, cursor, setCursor }: { grid: Grid; plane: Plane; cursor: Place; setCursor: (voxel: Place) => void }) {
  const axis = plane.across!;
  const count = grid.sides[axis]!;
  return (
    <label class="slices">
      <span>{plane.name}</span>
      <input type="range" min="0" max={count - 1} value={cursor[axis]!} onInput={(event) => setCursor(cursor.map((value, at) => (at === axis ? event.currentTarget.valueAsNumber : value)))} />
      <output aria-live="polite">slice {cursor[axis]! + 1} of {count}</output>
    </label>
  );
}

function usePictureKeys(shown: Omit<Shown, "tool">, change: Change): void {
  const zoom = (factor: number) => () => change({ zoom: clamp(shown.zoom * factor, 1, MOST_ZOOM) });
  useKeys({
    o: () => change({ mode: shown.mode === "overlay" ? "beside" : "overlay" }),
    m: () => change({ mask: !shown.mask }),
    i: () => change({ smooth: !shown.smooth }),
    w: () => change({ window: undefined }),
    "+": zoom(1.25),
    "=": zoom(1.25),
    "-": zoom(1 / 1.25),
    0: () => change({ zoom: undefined, centre: undefined }),
  });
}

const DRAG = 300;

/** A window that is wider for a drag to the right, and darker for one downwards; `range` is that of the image. */
function dragged({ centre, width }: Window, right: number, down: number, range: number): Window {
  return { centre: centre + (down * range) / DRAG, width: Math.max(width + (right * range) / DRAG, range / 1000) };
}

function imageTitle({ channel }: Pick<Shown, "channel">): string {
  return channel === "0" ? "image" : `image, ${channel}`;
}

function toldOf(shown: Omit<Shown, "tool">, channels: readonly Told["values"][], mask: Mask | null | undefined, maps: ReturnType<typeof useMaps>): Told[] {
  const image = channels.map((values, at) => ({ title: channels.length > 1 ? `image, channel ${at}` : imageTitle(shown), values }));
  const found = shown.layers.flatMap((layer) => {
    const map = loaded(maps.get(keyOf(layer)));
    return map ? [{ title: layer.title, values: map.values }] : [];
  });
  return [...image, ...(mask ? [{ title: "mask", values: mask.values }] : []), ...found];
}
