import { useEffect, useMemo, useRef } from "preact/hooks";
import { type Loaded, useLoaded } from "../loading.tsx";
import { colourOf, css, type Scale } from "./colours.ts";
import type { Grid } from "./geometry.ts";
import { type FoundMap, type Layer, ownScale } from "./layers.ts";
import { Legend } from "./legend.tsx";
import type { Case } from "./reading.ts";

interface Tiles {
  readonly picture: OffscreenCanvas;
  /** Upper left corners in pixels of the overview, row and column; negative where a tile fills up the bag. */
  readonly corners: readonly (readonly [number, number])[];
  readonly side: number;
}

/** The whole slide with its tiles: in the colours of the tiles' mean attribution, with the chosen tile marked. */
export function SlidePanel({ one, grid, tile, layer, map, choose }: {
  one: Case;
  grid: Grid;
  tile: number;
  layer: Layer | undefined;
  map: Loaded<FoundMap>;
  choose: (tile: number) => void;
}) {
  const tiles = useLoaded(() => readTiles(one), [one]);
  const canvas = useRef<HTMLCanvasElement>(null);
  const means = useMemo(() => (map && !(map instanceof Error) && !map.words ? meansOf(map, grid) : undefined), [map, grid]);
  const scale = useMemo(() => means && ownScale(means), [means]);
  useEffect(() => {
    if (canvas.current && tiles && !(tiles instanceof Error)) draw(canvas.current, tiles, tile, means, scale);
  }, [tiles, tile, means, scale]);
  if (tiles instanceof Error) return <p class="panel-words" role="alert">{tiles.message}</p>;
  return (
    <figure class="case-panel" data-title="slide">
      <figcaption>slide{means && layer ? `, mean of ${layer.title} by tile` : ""}</figcaption>
      <canvas
        ref={canvas}
        class="slide"
        role="img"
        aria-label={`The whole slide; tile ${tile + 1} of ${grid.sides[grid.space.indexOf("z")]} is marked`}
        onClick={(event) => {
          if (!tiles) return;
          const scaled = event.currentTarget.width / event.currentTarget.clientWidth;
          const found = tiles.corners.findIndex(([top, left]) => top >= 0 && within(event.offsetY * scaled - top, tiles.side) && within(event.offsetX * scaled - left, tiles.side));
          if (found >= 0) choose(found);
        }}
      />
      {scale && layer && (
        <>
          <Legend scale={scale} title={`tiles of ${layer.title}`} />
          <p class="panel-note">Colours of tiles are of this slide alone, not the same in other cases.</p>
        </>
      )}
    </figure>
  );
}

async function readTiles(one: Case): Promise<Tiles> {
  const names = ["slide_overview", "tile_position", "tile_side", "slide_size"];
  const [overview, positions, sides, sizes] = await Promise.all(names.map((name) => one.numbers(name)));
  const [, full, pitch] = overview!.shape as [number, number, number];
  const perPixel = Math.max(...sizes!.data) / full;
  const [height, width] = [...sizes!.data].map((size) => Math.max(1, Math.round(size / perPixel))) as [number, number];
  const pixels = new ImageData(width, height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const at = row * pitch + column;
      pixels.data.set([0, 1, 2].map((colour) => overview!.data[colour * full * pitch + at]!).concat(255), 4 * (row * width + column));
    }
  }
  const picture = new OffscreenCanvas(width, height);
  picture.getContext("2d")!.putImageData(pixels, 0, 0);
  const corners = Array.from({ length: positions!.data.length / 2 }, (_, tile) => [positions!.data[2 * tile]! / perPixel, positions!.data[2 * tile + 1]! / perPixel] as const);
  return { picture, corners, side: sides!.data[0]! / perPixel };
}

/** Averages what is finite of each tile. */
function meansOf({ values }: FoundMap, { sides, space }: Grid): Float32Array {
  const tiles = sides[space.indexOf("z")]!;
  const places = values.length / tiles;
  return Float32Array.from({ length: tiles }, (_, tile) => {
    const finite = [...values.subarray(tile * places, (tile + 1) * places)].filter(Number.isFinite);
    return finite.reduce((sum, value) => sum + value, 0) / finite.length;
  });
}

function draw(canvas: HTMLCanvasElement, { picture, corners, side }: Tiles, chosen: number, means: Float32Array | undefined, scale: Scale | undefined): void {
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d")!;
  context.drawImage(picture, 0, 0);
  corners.forEach(([top, left], tile) => {
    if (top < 0) return;
    if (means && scale && Number.isFinite(means[tile])) {
      context.globalAlpha = 0.6;
      context.fillStyle = css(colourOf(means[tile]!, scale));
      context.fillRect(left, top, side, side);
      context.globalAlpha = 1;
    }
    context.lineWidth = tile === chosen ? 2 : 0.5;
    context.strokeStyle = tile === chosen ? "#00e5a0" : "rgb(0 0 0 / 0.5)";
    context.strokeRect(left, top, side, side);
  });
}

function within(offset: number, side: number): boolean {
  return offset >= 0 && offset < side;
}
