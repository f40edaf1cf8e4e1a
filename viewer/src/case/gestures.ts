import type { PointerEventHandler } from "preact";
import { useRef } from "preact/hooks";
import type { Zoom } from "./projection.ts";
import { pan, type Projection, zoomAt } from "./projection.ts";
import { clamp, MOST_ZOOM } from "./settings.ts";

/** The use of a drag with the first button or one finger; the second button sets the window, and Shift moves. */
export type Tool = "cursor" | "pan" | "window";

export interface Gestures {
  onHover(point: readonly [number, number] | undefined): void;
  onCursor(point: readonly [number, number]): void;
  /** A drag by some pixels, for level and width of the window. */
  onWindow(right: number, down: number): void;
  onZoom(zoom: Zoom): void;
  onSlice(step: number): void;
}

interface Pressed {
  x: number;
  y: number;
  tool: Tool;
}

const WHEEL = 60;

/** Handlers of pointer and wheel for a panel: drag by a tool, pinch to zoom, wheel to scroll slices or zoom. */
export function useGestures(projection: Projection, zoom: Zoom, tool: Tool, gestures: Gestures) {
  const pressed = useRef(new Map<number, Pressed>());
  const turned = useRef(0);

  const onPointerDown: PointerEventHandler<HTMLElement> = (event) => {
    const [x, y] = pointOf(event);
    event.currentTarget.setPointerCapture(event.pointerId);
    const used = event.button === 2 ? "window" : event.button === 1 || event.shiftKey ? "pan" : tool;
    pressed.current.set(event.pointerId, { x, y, tool: used });
    if (used === "cursor" && pressed.current.size === 1) gestures.onCursor([x, y]);
  };

  const onPointerMove: PointerEventHandler<HTMLElement> = (event) => {
    const [x, y] = pointOf(event);
    const from = pressed.current.get(event.pointerId);
    if (event.pointerType !== "touch") gestures.onHover([x, y]);
    if (!from) return;
    const others = [...pressed.current].filter(([id]) => id !== event.pointerId).map(([, other]) => other);
    pressed.current.set(event.pointerId, { ...from, x, y });
    if (others.length) return gestures.onZoom(pinched(projection, zoom, from, { x, y }, others[0]!));
    if (from.tool === "cursor") gestures.onCursor([x, y]);
    else if (from.tool === "pan") gestures.onZoom(pan(projection, zoom, x - from.x, y - from.y));
    else gestures.onWindow(x - from.x, y - from.y);
  };

  const onPointerUp: PointerEventHandler<HTMLElement> = (event) => {
    pressed.current.delete(event.pointerId);
  };

  const onWheel = (event: WheelEvent & { currentTarget: HTMLElement }) => {
    event.preventDefault();
    if (projection.plane.across === undefined || event.ctrlKey || event.metaKey) {
      const factor = clamp(zoom.factor * Math.exp(-event.deltaY / 300), 1, MOST_ZOOM);
      return gestures.onZoom(zoomAt(projection, zoom, factor, ...pointOf(event)));
    }
    turned.current += event.deltaMode ? event.deltaY * WHEEL : event.deltaY;
    const steps = Math.trunc(turned.current / WHEEL);
    turned.current -= steps * WHEEL;
    if (steps) gestures.onSlice(steps);
  };

  return {
    onPointerDown,
    onPointerMove,
    onPointerUp,
    onPointerCancel: onPointerUp,
    onPointerLeave: () => gestures.onHover(undefined),
    onContextMenu: (event: Event) => event.preventDefault(),
    onWheel,
  };
}

function pinched(projection: Projection, zoom: Zoom, from: Pressed, to: { x: number; y: number }, held: Pressed): Zoom {
  const before = Math.hypot(from.x - held.x, from.y - held.y);
  const after = Math.hypot(to.x - held.x, to.y - held.y);
  const factor = clamp(before > 0 ? (zoom.factor * after) / before : zoom.factor, 1, MOST_ZOOM);
  return zoomAt(projection, zoom, factor, held.x, held.y);
}

function pointOf(event: MouseEvent & { currentTarget: HTMLElement }): [number, number] {
  const { left, top } = event.currentTarget.getBoundingClientRect();
  return [event.clientX - left, event.clientY - top];
}
