import type { Place } from "./geometry.ts";
import type { Window } from "./windows.ts";

/** The state of a case's view, as its address has it: what is undefined is chosen by the page. */
export interface Settings {
  readonly target?: string;
  readonly explainers?: readonly string[];
  readonly mode?: "beside" | "overlay";
  readonly opacity?: number;
  readonly planes?: readonly string[];
  readonly cursor?: Readonly<Record<string, number>>;
  readonly window?: Window;
  readonly zoom?: number;
  readonly centre?: Place;
  readonly channel?: string;
  readonly smooth?: boolean;
  readonly mask?: boolean;
  /** What the address says beside: the filter, search and order of the worklist that the case was opened from. */
  readonly others?: readonly (readonly [string, string])[];
}

const AXES = ["z", "y", "x"];
const OWN = ["target", "explainers", "mode", "opacity", "planes", ...AXES, "window", "zoom", "centre", "channel", "smooth", "mask"];

export function readSettings(query: URLSearchParams): Settings {
  const [centre, width] = numbers(query.get("window"));
  const cursor = Object.fromEntries(AXES.flatMap((axis) => (isNumber(query.get(axis)) ? [[axis, Number(query.get(axis))]] : [])));
  const mode = query.get("mode");
  const place = numbers(query.get("centre"));
  return {
    target: query.get("target") ?? undefined,
    explainers: query.has("explainers") ? listed(query.get("explainers")!) : undefined,
    mode: mode === "overlay" || mode === "beside" ? mode : undefined,
    opacity: isNumber(query.get("opacity")) ? clamp(Number(query.get("opacity")), 0, 1) : undefined,
    planes: query.get("planes")?.split(",").filter(Boolean),
    cursor: Object.keys(cursor).length ? cursor : undefined,
    window: centre !== undefined && width !== undefined && width > 0 ? { centre, width } : undefined,
    zoom: Number(query.get("zoom")) > 0 ? clamp(Number(query.get("zoom")), 1, MOST_ZOOM) : undefined,
    centre: place.length ? place : undefined,
    channel: query.get("channel") ?? undefined,
    smooth: query.has("smooth") ? query.get("smooth") === "1" : undefined,
    mask: query.has("mask") ? query.get("mask") === "1" : undefined,
    others: [...query].filter(([name]) => !OWN.includes(name)),
  };
}

export const MOST_ZOOM = 40;

export function writeSettings(settings: Settings): URLSearchParams {
  const { window, cursor, centre } = settings;
  const entries: [string, string | undefined][] = [
    ["target", settings.target],
    ["explainers", settings.explainers?.map(escaped).join(",")],
    ["mode", settings.mode],
    ["opacity", settings.opacity?.toString()],
    ["planes", settings.planes?.join(",")],
    ...AXES.map((axis): [string, string | undefined] => [axis, cursor?.[axis]?.toString()]),
    ["window", window && `${short(window.centre)},${short(window.width)}`],
    ["zoom", settings.zoom === undefined || settings.zoom === 1 ? undefined : short(settings.zoom)],
    ["centre", settings.zoom === undefined || settings.zoom === 1 ? undefined : centre?.map(short).join(",")],
    ["channel", settings.channel],
    ["smooth", flag(settings.smooth)],
    ["mask", flag(settings.mask)],
  ];
  const own = entries.filter((entry): entry is [string, string] => entry[1] !== undefined);
  return new URLSearchParams([...own, ...(settings.others ?? []).map(([name, value]) => [name, value])]);
}

/** The settings that go along to another case: the place in the image, the zoom and the window are the image's own. */
export function forAnotherCase({ cursor, zoom, centre, window, ...kept }: Settings): Settings {
  return kept;
}

export function clamp(value: number, least: number, most: number): number {
  return Math.min(Math.max(value, least), most);
}

/** Parts names at commas, but for those after a backslash, which belong to a name. */
function listed(text: string): string[] {
  return (text.match(/(?:\\.|[^,\\])+/gu) ?? []).map((name) => name.replace(/\\(.)/gu, "$1"));
}

function escaped(name: string): string {
  return name.replace(/[\\,]/g, "\\$&");
}

function short(value: number): string {
  return String(Number(value.toPrecision(6)));
}

function flag(value: boolean | undefined): string | undefined {
  return value === undefined ? undefined : value ? "1" : "0";
}

function isNumber(text: string | null): boolean {
  return text !== null && text.trim() !== "" && Number.isFinite(Number(text));
}

function numbers(text: string | null): number[] {
  const found = text?.split(",").map(Number) ?? [];
  return found.every(Number.isFinite) ? found : [];
}
