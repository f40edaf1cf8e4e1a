import { useEffect, useRef } from "preact/hooks";
import type { Numbers, Output } from "../output/output.ts";

/** Bytes of a picture, before compression, up to which a screen full of them is fetched without being asked for. */
const SMALL = 64 * 1024;
const SETTLED = 120; // ms that a row has been in sight, so that nothing is fetched of those that rush by

/** Tells whether the store's pictures are small enough to be shown in a list. */
export function hasSmallPictures(output: Output): boolean {
  const image = output.variables.get("image");
  return image !== undefined && 4 * image.shape.slice(2).reduce((all, side) => all * side, 1) <= SMALL;
}

/** The image of a row in grey, the middle slice of a volume; from the 1st to the 99th percentile of its values. */
export function Picture({ output, row }: { output: Output; row: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    let wanted = true;
    const timer = setTimeout(async () => {
      const slice = await readSlice(output, row).catch(() => undefined); // an image that was not stored has no picture
      if (wanted && slice && canvas.current) draw(canvas.current, slice);
    }, SETTLED);
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, [output, row]);
  return <canvas ref={canvas} class="picture" width={1} height={1} aria-hidden="true" />;
}

interface Slice {
  readonly values: Numbers;
  readonly width: number;
}

async function readSlice(output: Output, row: number): Promise<Slice | undefined> {
  const image = output.variables.get("image");
  if (!image) return undefined;
  const place = image.dims.indexOf("z");
  const at = { image_id: row, channel: 0, ...(place < 0 ? {} : { z: Math.floor(image.shape[place]! / 2) }) };
  const { data, dims, shape } = await output.read("image", at);
  if (Array.isArray(data)) return undefined;
  const [first = 1, second = 1] = shape;
  return dims[0] === "x" ? { values: turned(data, first, second), width: first } : { values: data, width: second };
}

/** Turns (x, y) into (y, x). */
function turned(values: Numbers, width: number, height: number): Float32Array {
  return Float32Array.from({ length: width * height }, (_, at) => values[(at % width) * height + Math.floor(at / width)]!);
}

function draw(canvas: HTMLCanvasElement, { values, width }: Slice): void {
  const known = Float32Array.from(values).filter(Number.isFinite).sort();
  if (!known.length) return;
  const low = known[Math.floor(0.01 * (known.length - 1))]!;
  const high = known[Math.ceil(0.99 * (known.length - 1))]!;
  const pixels = new ImageData(width, values.length / width);
  values.forEach((value: number, at: number) => {
    const grey = Number.isFinite(value) ? (255 * (value - low)) / (high - low || 1) : 0;
    pixels.data.set([grey, grey, grey, 255], 4 * at);
  });
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d")!.putImageData(pixels, 0, 0);
}
