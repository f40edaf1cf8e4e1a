import { useEffect, useRef, useState } from "preact/hooks";
import { colourOf, type Scale } from "../case/colours.ts";
import { type Grid, type Plane, planesOf } from "../case/geometry.ts";
import { cut } from "../case/slices.ts";
import { between, grey } from "../case/windows.ts";
import { useLoaded, WhenLoaded } from "../loading.tsx";
import type { Output, Variable } from "../output/output.ts";
import { isSpace, labelsAlong } from "./arrays.ts";
import type { Behind } from "./behind.ts";
import { written } from "./numbers.ts";
import { scaleOf, strongestSlice } from "./scale.ts";
import { Linked } from "./tables.tsx";
import { Text } from "./text.tsx";

/** An array over space as pictures, one for each place of its other dimensions; maps share one scale, which is signed. */
export function Pictures({ output, of, grid, behind }: { output: Output; of: Variable; grid: Grid; behind: Behind }) {
  const found = useLoaded(() => readPictures(output, of), [output, of]);
  return (
    <figure class="arrays" data-name={of.name}>
      <figcaption>{String(of.attributes.long_name ?? of.name)}</figcaption>
      <WhenLoaded of={found} what="pictures">
        {(pictures) => <Sheet of={of} pictures={pictures} dims={namedDims(of)} grid={grid} behind={behind} />}
      </WhenLoaded>
    </figure>
  );
}

interface Picture {
  readonly labels: readonly string[];
  /** `(channel, *space)` of images as the network takes them, `(*space)` of maps. */
  readonly values: Float32Array;
  readonly channels: number;
}

function Sheet({ of, pictures, dims, grid, behind }: { of: Variable; pictures: readonly Picture[]; dims: readonly string[]; grid: Grid; behind: Behind }) {
  const [plane] = planesOf(grid) as [Plane];
  const depth = plane.across === undefined ? 1 : grid.sides[plane.across]!;
  const [slice, setSlice] = useState(() => strongestSlice(pictures.map(({ values }) => values), grid, plane));
  const areMaps = pictures.every(({ channels }) => !channels);
  const scale = scaleOf(pictures.map(({ values }) => values));
  return (
    <>
      {depth > 1 && (
        <label class="slice">
          {plane.name} slice {slice + 1} of {depth}
          <input type="range" min={0} max={depth - 1} value={slice} onInput={(event) => setSlice(event.currentTarget.valueAsNumber)} />
        </label>
      )}
      {areMaps && <Bar scale={scale} />}
      <ul class="sheet">
        {pictures.map((picture) => (
          <li key={picture.labels.join("/")}>
            <Drawn picture={picture} grid={grid} plane={plane} slice={slice} scale={areMaps ? scale : undefined} />
            <span>{picture.labels.map((label, at) => <Linked key={dims[at]} to={behind(of, dims[at]!, label)}><Text of={label} /></Linked>)}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

function Bar({ scale }: { scale: Scale }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const low = scale.signed ? -scale.limit : 0;
    paint(canvas.current!, 128, 1, (at) => colourOf(low + ((scale.limit - low) * at) / 127, scale));
  }, [scale.limit, scale.signed]);
  return (
    <p class="scale">
      {written(scale.signed ? -scale.limit : 0)} <canvas ref={canvas} aria-hidden="true" /> {written(scale.limit)}
    </p>
  );
}

interface DrawnProps {
  picture: Picture;
  grid: Grid;
  plane: Plane;
  slice: number;
  /** Of maps; an image is grey, or has its colours. */
  scale: Scale | undefined;
}

function Drawn({ picture, grid, plane, slice, scale }: DrawnProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const there = picture.values.some(Number.isFinite);
  useEffect(() => {
    if (there) draw(canvas.current!, picture, grid, plane, slice, scale);
  }, [picture, slice, there]);
  if (!there) return <div class="blank">none</div>;
  const aspect = (grid.sides[plane.columns]! * grid.spacing[plane.columns]!) / (grid.sides[plane.rows]! * grid.spacing[plane.rows]!);
  return <canvas ref={canvas} role="img" aria-label={picture.labels.join(", ")} style={{ aspectRatio: String(aspect) }} />;
}

function draw(canvas: HTMLCanvasElement, { values, channels }: Picture, grid: Grid, plane: Plane, slice: number, scale: Scale | undefined) {
  const size = grid.sides.reduce((product, side) => product * side, 1);
  const ofChannel = (channel: number) => cut(values.subarray(channel * size, (channel + 1) * size), grid, plane, slice);
  const first = ofChannel(0);
  if (scale) return paint(canvas, first.width, first.height, (at) => colourOf(first.values[at]!, scale));
  const shown = channels === 3 ? [first, ofChannel(1), ofChannel(2)] : [first, first, first];
  const [low, high] = ends(values);
  const window = between(low, high);
  paint(canvas, first.width, first.height, (at) => shown.map((channel) => 255 * grey(channel.values[at]!, window)));
}

function paint(canvas: HTMLCanvasElement, width: number, height: number, colour: (at: number) => readonly number[]) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) pixels.data.set([...colour(at), 255], 4 * at);
  canvas.getContext("2d")!.putImageData(pixels, 0, 0);
}

function ends(values: Float32Array): [number, number] {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

function namedDims({ dims }: Variable): string[] {
  return dims.filter((dim) => !isSpace(dim) && dim !== "channel");
}

async function readPictures(output: Output, of: Variable): Promise<Picture[]> {
  const named = namedDims(of);
  const sizes = named.map((dim) => of.shape[of.dims.indexOf(dim)]!);
  const [labels, { data }] = await Promise.all([
    Promise.all(named.map((dim, at) => labelsAlong(output, dim, sizes[at]!))),
    output.read(of.name),
  ]);
  const count = sizes.reduce((product, size) => product * size, 1);
  const size = data.length / count;
  const channels = of.dims.includes("channel") ? of.shape[of.dims.indexOf("channel")]! : 0;
  return Array.from({ length: count }, (_, at) => {
    const strides = sizes.map((_, axis) => sizes.slice(axis + 1).reduce((product, side) => product * side, 1));
    const own = strides.map((stride, axis) => labels[axis]![Math.floor(at / stride) % sizes[axis]!]!);
    return { labels: own, values: (data as Float32Array).subarray(at * size, (at + 1) * size), channels };
  });
}
