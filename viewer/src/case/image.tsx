import { type ComponentChildren, createContext } from "preact";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Numbers } from "../output/output.ts";
import type { Scale } from "./colours.ts";
import { type Grid, isInside, nearestVoxel, type Place, type Plane } from "./geometry.ts";
import { type Gestures, type Tool, useGestures } from "./gestures.ts";
import { draw, outlinesOf, paint } from "./painting.ts";
import { extent, type Projection, project, toPoint, toVoxel, type Zoom } from "./projection.ts";
import { cut } from "./slices.ts";
import type { Window } from "./windows.ts";

/**
 * The surface of a panel, for a layer that is drawn over its picture, such as a region that a reader corrects.
 *
 * Points are in pixels of CSS from the panel's upper left corner. Voxels are continuous indices along the axes of
 * `grid.space`, with whole numbers at their centres; along `plane.across` a point has the voxel `slice`.
 */
export interface Surface {
  readonly grid: Grid;
  readonly plane: Plane;
  readonly slice: number;
  readonly width: number;
  readonly height: number;
  toVoxel(x: number, y: number): number[];
  toPoint(voxel: Place): [number, number];
}

/**
 * Renders a layer over the picture of each panel, absolutely placed, as large as the panel.
 *
 * The layer takes pointers if its own style says `pointer-events: auto`; then the panel's gestures, but for the
 * wheel, rest.
 */
export type Overlay = (surface: Surface) => ComponentChildren;

/** Lays an overlay over every panel of the case, or takes it away; for what is mounted beside the pictures. */
export const SetOverlay = createContext<(overlay: Overlay | undefined) => void>(() => {});

export interface ImageProps {
  readonly title: string;
  readonly grid: Grid;
  readonly plane: Plane;
  readonly cursor: Place;
  /** The voxel that is marked, in all panels: under the pointer in one of them, or the cursor. */
  readonly crosshair: Place | undefined;
  readonly zoom: Zoom;
  readonly tool: Tool;
  readonly smooth: boolean;
  readonly image?: { readonly channels: readonly Numbers[]; readonly window: Window } | undefined;
  readonly map?: { readonly values: Numbers; readonly scale: Scale; readonly opacity: number } | undefined;
  readonly mask?: { readonly values: Numbers; readonly none: number } | undefined;
  readonly overlay?: Overlay | undefined;
  onHover(voxel: Place | undefined): void;
  onCursor(voxel: Place): void;
  onZoom(zoom: Zoom): void;
  onWindow(right: number, down: number): void;
}

/** Shows one plane of an image, of a map, or of a map over the image, with all that is marked on it. */
export function CaseImage(props: ImageProps) {
  const { grid, plane, cursor, zoom, image, map, mask } = props;
  const [frame, width] = useWidth();
  const slice = plane.across === undefined ? 0 : cursor[plane.across]!;
  const [wide, high] = extent(grid, plane);
  const height = Math.round(Math.min((width * high) / wide, 1.25 * width, 0.72 * innerHeight));
  const projection = project(grid, plane, slice, width, height, zoom);
  const picture = useMemo(() => {
    const base = image && { channels: image.channels.map((values) => cut(values, grid, plane, slice)), window: image.window };
    return paint(base, map && { ...map, slice: cut(map.values, grid, plane, slice) });
  }, [grid, plane, slice, image, map]);
  const outlines = useMemo(() => (mask ? outlinesOf(cut(mask.values, grid, plane, slice), mask.none) : []), [grid, plane, slice, mask]);
  const canvas = useDrawing(width, height, (context) => {
    draw(context, projection, picture, { outlines, cursor: props.crosshair, unit: grid.patient ? "mm" : "px" }, props.smooth);
  });
  const gestures = useGestures(projection, zoom, props.tool, gesturesOf(props, projection));
  return (
    <div class="panel-image" ref={frame}>
      <canvas
        ref={canvas}
        tabIndex={0}
        role="img"
        aria-label={describe(props, slice)}
        data-tool={props.tool}
        style={{ width: `${width}px`, height: `${height}px` }}
        onKeyDown={(event) => moveByKey(event, props)}
        {...gestures}
      />
      {props.overlay && width > 0 && <div class="panel-overlay" onWheel={gestures.onWheel}>{props.overlay(surfaceOf(projection))}</div>}
    </div>
  );
}

function surfaceOf(projection: Projection): Surface {
  return {
    ...projection,
    toVoxel: (x, y) => toVoxel(projection, x, y),
    toPoint: (voxel) => toPoint(projection, voxel),
  };
}

function gesturesOf(props: ImageProps, projection: Projection): Gestures {
  const { grid, cursor } = props;
  return {
    onHover(point) {
      const place = point && toVoxel(projection, ...point);
      props.onHover(place && isInside(grid, place) ? nearestVoxel(grid, place) : undefined);
    },
    onCursor: (point) => props.onCursor(nearestVoxel(grid, toVoxel(projection, ...point))),
    onWindow: props.onWindow,
    onZoom: props.onZoom,
    onSlice: (step) => props.onCursor(moved(grid, cursor, projection.plane.across, step)),
  };
}

function moved(grid: Grid, cursor: Place, axis: number | undefined, step: number): number[] {
  return nearestVoxel(grid, cursor.map((value, at) => (at === axis ? value + step : value)));
}

/** Arrows move the crosshair as the picture is turned; page keys scroll the slices. */
function moveByKey(event: KeyboardEvent, { grid, plane, cursor, onCursor }: ImageProps): void {
  const right = plane.turnsColumns ? -1 : 1;
  const down = plane.turnsRows ? -1 : 1;
  const steps: Record<string, readonly [number | undefined, number]> = {
    ArrowLeft: [plane.columns, -right],
    ArrowRight: [plane.columns, right],
    ArrowUp: [plane.rows, -down],
    ArrowDown: [plane.rows, down],
    PageUp: [plane.across, -1],
    PageDown: [plane.across, 1],
  };
  const step = steps[event.key];
  if (step?.[0] === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  onCursor(moved(grid, cursor, ...step));
}

function describe({ title, plane, grid }: ImageProps, slice: number): string {
  const where = plane.across === undefined ? plane.name : `${plane.name}, slice ${slice + 1} of ${grid.sides[plane.across]}`;
  const [top, right, bottom, left] = plane.letters ?? [];
  return `${title}, ${where}${top ? `; ${top} on top, ${right} on the right, ${bottom} below, ${left} on the left` : ""}`;
}

/** The width of a frame in pixels of CSS, as the page gives it. */
function useWidth() {
  const frame = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    observer.observe(frame.current!);
    return () => observer.disconnect();
  }, []);
  return [frame, width] as const;
}

function useDrawing(width: number, height: number, drawPanel: (context: CanvasRenderingContext2D) => void) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    if (!canvas.current || !width || !height) return;
    const ratio = devicePixelRatio;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.current.width !== wide) canvas.current.width = wide;
    if (canvas.current.height !== high) canvas.current.height = high;
    const context = canvas.current.getContext("2d")!;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    drawPanel(context);
  });
  return canvas;
}
