import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Surface } from "../case/image.tsx";
import { cut, outline } from "../case/slices.ts";
import type { Drawing } from "./drawing.tsx";
import { brush, polygon } from "./region.ts";

type Point = readonly [number, number];

const CLOSES = 10;
const COLOUR = "#ffd400";

/** The region over a panel's picture, and the tools on it: pointer, or arrows, Space and Enter. */
export function Layer({ surface, drawing }: { surface: Surface; drawing: Drawing }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [points, setPoints] = useCurrent<readonly Point[]>([]);
  const [cross, setCross] = useCurrent<Point | undefined>(undefined);
  const { tool } = drawing;
  const stroke = (path: readonly Point[]) => (mask: Uint8Array) =>
    brush(mask, surface, path.map((point) => surface.toVoxel(...point)), drawing.radius, tool === "erase" ? 0 : 1);
  const close = () => {
    const corners = points().map((point) => surface.toVoxel(...point));
    if (corners.length > 2) drawing.change((mask) => polygon(mask, surface, corners, 1));
    setPoints([]);
  };
  const addCorner = (point: Point) => {
    const [first] = points();
    if (first && points().length > 2 && Math.hypot(point[0] - first[0], point[1] - first[1]) < CLOSES) close();
    else setPoints([...points(), point]);
  };
  const press = (point: Point) => (tool === "polygon" ? addCorner(point) : setPoints([point]));
  const move = (point: Point) => {
    setCross(point);
    if (tool !== "polygon" && points().length) setPoints([...points(), point]);
  };
  const release = () => {
    if (tool === "polygon" || !points().length) return;
    drawing.change(stroke(points()));
    setPoints([]);
  };
  const takeKey = (key: string): boolean => {
    const at = cross() ?? [surface.width / 2, surface.height / 2];
    const moved = movedBy(key, at, surface);
    if (moved) setCross(moved);
    else if (key === " " && tool === "polygon") addCorner(at);
    else if (key === " ") drawing.change(stroke([at]));
    else if (key === "Enter" && tool === "polygon") close();
    else if (key === "Escape" && points().length) setPoints([]);
    else return false;
    return true;
  };
  useLayoutEffect(() => {
    const shown = drawing.mask?.slice() ?? new Uint8Array(surface.grid.sides.reduce((product, side) => product * side, 1));
    if (tool !== "polygon" && points().length) stroke(points())(shown);
    show(canvas.current!, surface, shown, tool === "polygon" ? points() : [], tool && cross());
  });
  return (
    <canvas
      ref={canvas}
      class="region-layer"
      tabIndex={tool ? 0 : -1}
      role="img"
      aria-label={tool ? `Region, ${tool}: arrows move, Space ${tool === "polygon" ? "sets a corner, Enter closes" : "draws"}` : "Region"}
      style={{ width: `${surface.width}px`, height: `${surface.height}px`, pointerEvents: tool ? "auto" : "none" }}
      onPointerDown={(event) => {
        if (event.button !== 0) return;
        event.currentTarget.setPointerCapture(event.pointerId);
        event.currentTarget.focus({ preventScroll: true });
        press(pointOf(event));
      }}
      onPointerMove={(event) => {
        const isStill = !event.movementX && !event.movementY; // browsers tell of a pointer at rest when the page changes
        if (!isStill) move(pointOf(event));
      }}
      onPointerUp={release}
      onPointerCancel={() => setPoints([])}
      onDblClick={() => tool === "polygon" && close()}
      onKeyDown={(event) => {
        if (!takeKey(event.key)) return;
        event.preventDefault();
        event.stopPropagation();
      }}
    />
  );
}

/** A value that is read when it is needed, since pointers and keys are faster than renderings. */
function useCurrent<Value>(first: Value): [() => Value, (value: Value) => void] {
  const current = useRef(first);
  const [, render] = useState(0);
  const set = (value: Value) => {
    current.current = value;
    render((count) => count + 1);
  };
  return [() => current.current, set];
}

function movedBy(key: string, [x, y]: Point, surface: Surface): Point | undefined {
  const [wide, high] = stepOf(surface);
  const steps: Record<string, Point> = { ArrowLeft: [-wide, 0], ArrowRight: [wide, 0], ArrowUp: [0, -high], ArrowDown: [0, high] };
  const step = steps[key];
  return step && [clamp(x + step[0], surface.width), clamp(y + step[1], surface.height)];
}

/** Pixels of a voxel along the columns and the rows of a panel. */
function stepOf(surface: Surface): Point {
  const { plane } = surface;
  const one = surface.toVoxel(0, 0);
  const next = one.map((value, axis) => (axis === plane.columns || axis === plane.rows ? value + 1 : value));
  const [a, b] = [surface.toPoint(one), surface.toPoint(next)];
  return [Math.abs(b[0] - a[0]), Math.abs(b[1] - a[1])];
}

function show(canvas: HTMLCanvasElement, surface: Surface, mask: Uint8Array, corners: readonly Point[], cross: Point | undefined) {
  const ratio = devicePixelRatio;
  canvas.width = Math.round(surface.width * ratio);
  canvas.height = Math.round(surface.height * ratio);
  const context = canvas.getContext("2d")!;
  context.scale(ratio, ratio);
  context.strokeStyle = COLOUR;
  context.lineWidth = 2;
  const slice = cut(mask, surface.grid, surface.plane, surface.slice);
  const [left, top] = upperLeft(surface);
  const [wide, high] = stepOf(surface);
  context.fillStyle = `${COLOUR}44`;
  slice.values.forEach((value, at) => {
    if (value) context.fillRect(left + wide * (at % slice.width), top + high * Math.floor(at / slice.width), wide, high);
  });
  const ends = outline(slice, 1);
  context.beginPath();
  for (let at = 0; at < ends.length; at += 4) {
    context.moveTo(left + wide * ends[at]!, top + high * ends[at + 1]!);
    context.lineTo(left + wide * ends[at + 2]!, top + high * ends[at + 3]!);
  }
  corners.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (corners.length && cross) context.lineTo(...cross);
  if (cross) {
    context.moveTo(cross[0] - 6, cross[1]);
    context.lineTo(cross[0] + 6, cross[1]);
    context.moveTo(cross[0], cross[1] - 6);
    context.lineTo(cross[0], cross[1] + 6);
  }
  context.stroke();
}

/** The point of the panel at which the upper left corner of the slice's first voxel lies. */
function upperLeft(surface: Surface): Point {
  const { plane, grid } = surface;
  const voxel: number[] = surface.toVoxel(0, 0);
  voxel[plane.columns] = plane.turnsColumns ? grid.sides[plane.columns]! - 0.5 : -0.5;
  voxel[plane.rows] = plane.turnsRows ? grid.sides[plane.rows]! - 0.5 : -0.5;
  return surface.toPoint(voxel) as Point;
}

function clamp(value: number, most: number): number {
  return Math.min(Math.max(value, 0), most);
}

function pointOf(event: MouseEvent & { currentTarget: HTMLElement }): Point {
  const { left, top } = event.currentTarget.getBoundingClientRect();
  return [event.clientX - left, event.clientY - top];
}
