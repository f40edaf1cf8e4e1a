import { blend, css, labelColour, type Scale, strengthOf } from "./colours.ts";
import type { Place } from "./geometry.ts";
import { barLength, type Projection, toPoint } from "./projection.ts";
import { outline, type Slice } from "./slices.ts";
import { grey, type Window } from "./windows.ts";

/** The image of a slice: one channel in grey, or three in their colours. */
export interface Base {
  readonly channels: readonly Slice[];
  readonly window: Window;
}

/** A map of a slice in its colours: laid over the image with an opacity, or alone. */
export interface Laid {
  readonly slice: Slice;
  readonly scale: Scale;
  readonly opacity: number;
}

/** Paints a slice, a pixel a voxel: the image, and a map over it; what is not finite in a map alone is left open. */
export function paint(base: Base | undefined, map: Laid | undefined): OffscreenCanvas | undefined {
  const shape = base?.channels[0] ?? map?.slice;
  if (!shape?.values.length) return undefined;
  const { width, height } = shape;
  const pixels = new ImageData(width, height);
  if (base) paintBase(pixels.data, base);
  if (map) layOver(pixels.data, map, base !== undefined);
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d")!.putImageData(pixels, 0, 0);
  return canvas;
}

const OPAQUE = 255;

function paintBase(pixels: Uint8ClampedArray, { channels, window }: Base): void {
  for (let part = 0; part < 3; part++) {
    const { values } = channels[part] ?? channels[0]!;
    for (let at = 0; at < values.length; at++) pixels[4 * at + part] = OPAQUE * grey(values[at]!, window);
  }
  for (let at = 3; at < pixels.length; at += 4) pixels[at] = OPAQUE;
}

function layOver(pixels: Uint8ClampedArray, { slice, scale, opacity }: Laid, isOverImage: boolean): void {
  for (let at = 0; at < slice.values.length; at++) {
    const value = slice.values[at]!;
    if (!Number.isFinite(value)) continue;
    blend(pixels, 4 * at, value, scale, isOverImage ? opacity * strengthOf(value, scale) : 1);
    pixels[4 * at + 3] = OPAQUE;
  }
}

/** Marks of a panel over its picture. */
export interface Marks {
  readonly outlines: readonly { readonly label: number; readonly ends: Float32Array }[];
  readonly cursor: Place | undefined;
  readonly unit: "mm" | "px";
}

/** Outlines every label of a mask in a slice; `none` stands for the places of an image without a mask. */
export function outlinesOf(slice: Slice, none: number): Marks["outlines"] {
  const labels = [...new Set(slice.values)].filter((label) => label > 0 && label !== none).sort((a, b) => a - b);
  return labels.map((label) => ({ label, ends: outline(slice, label) }));
}

/** Draws a panel in pixels of CSS: the picture, outlines as sharp lines at any zoom, crosshair, letters and scale bar. */
export function draw(context: CanvasRenderingContext2D, projection: Projection, picture: OffscreenCanvas | undefined, marks: Marks, smooth: boolean): void {
  const { width, height, corner, scale } = projection;
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  if (picture) {
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, corner[0], corner[1], picture.width * scale[0], picture.height * scale[1]);
  }
  for (const { label, ends } of marks.outlines) trace(context, projection, ends, labelColour(label));
  if (marks.cursor) cross(context, projection, marks.cursor);
  letter(context, projection);
  bar(context, projection, marks.unit);
}

function trace(context: CanvasRenderingContext2D, { corner, scale }: Projection, ends: Float32Array, colour: string): void {
  context.beginPath();
  for (let at = 0; at < ends.length; at += 4) {
    context.moveTo(corner[0] + ends[at]! * scale[0], corner[1] + ends[at + 1]! * scale[1]);
    context.lineTo(corner[0] + ends[at + 2]! * scale[0], corner[1] + ends[at + 3]! * scale[1]);
  }
  context.lineCap = "square";
  context.lineWidth = 3;
  context.strokeStyle = "rgb(0 0 0 / 0.55)";
  context.stroke();
  context.lineWidth = 1.5;
  context.strokeStyle = colour;
  context.stroke();
}

const GAP = 8;

function cross(context: CanvasRenderingContext2D, projection: Projection, cursor: Place): void {
  const [x, y] = toPoint(projection, cursor);
  const { width, height } = projection;
  context.beginPath();
  for (const [from, to] of [[0, x - GAP], [x + GAP, width]] as const) {
    context.moveTo(from, y);
    context.lineTo(to, y);
  }
  for (const [from, to] of [[0, y - GAP], [y + GAP, height]] as const) {
    context.moveTo(x, from);
    context.lineTo(x, to);
  }
  context.lineWidth = 1;
  context.strokeStyle = css([255, 235, 60]);
  context.globalAlpha = 0.75;
  context.stroke();
  context.globalAlpha = 1;
}

function letter(context: CanvasRenderingContext2D, { plane, width, height }: Projection): void {
  if (!plane.letters) return;
  const [top, right, bottom, left] = plane.letters;
  context.font = "600 14px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const [text, x, y] of [[top, width / 2, 12], [right, width - 12, height / 2], [bottom, width / 2, height - 12], [left, 12, height / 2]] as const) {
    written(context, text, x, y);
  }
}

function bar(context: CanvasRenderingContext2D, projection: Projection, unit: string): void {
  const { grid, plane, scale, height } = projection;
  const length = barLength(projection);
  const pixels = (length * scale[0]) / grid.spacing[plane.columns]!;
  context.fillStyle = "#000";
  context.fillRect(9, height - 15, pixels + 2, 5);
  context.fillStyle = "#fff";
  context.fillRect(10, height - 14, pixels, 3);
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "left";
  context.textBaseline = "bottom";
  written(context, `${length} ${unit}`, 10, height - 17);
}

function written(context: CanvasRenderingContext2D, text: string, x: number, y: number): void {
  context.lineWidth = 3;
  context.strokeStyle = "rgb(0 0 0 / 0.8)";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}
