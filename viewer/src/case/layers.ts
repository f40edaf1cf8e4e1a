import type { Numbers, Output } from "../output/output.ts";
import type { Scale } from "./colours.ts";
import type { Grid } from "./geometry.ts";
import { type Case, kindOf, missing, namesOf, ofImages } from "./reading.ts";
import type { Settings } from "./settings.ts";
import { quantilesOf } from "./windows.ts";

/** A map that can be laid over the image: one place of an array of the store over its dimensions but space. */
export interface Layer {
  /** The name in the address: of an attribution map its explainer, of another array also the array's name. */
  readonly id: string;
  readonly title: string;
  readonly variable: string;
  readonly explainer: string | undefined;
  readonly at: Readonly<Record<string, number>>;
}

/** A map of a case: its values on the grid, or the words that stand for it where there is nothing to see. */
export interface FoundMap {
  readonly values: Numbers;
  readonly words: string;
}

const MAPS = "attribution";
const CONTROLS = "control_";

/** Names of the grid's axes, in the order of the store. */
export function spaceOf({ variables }: Output): string[] {
  return (variables.get("image")?.dims ?? []).filter((dim) => dim !== "image_id" && dim !== "channel");
}

/** Lists every map of a case for a target: of all arrays over space that are neither the image nor its mask. */
export function layersOf(output: Output, target: number): Layer[] {
  const space = spaceOf(output);
  const found = ofImages(output).filter((variable) => {
    const own = variable.dims.slice(-space.length);
    return !["image", "mask"].includes(kindOf(variable)) && own.length > 1 && own.every((dim, at) => dim === space[at]);
  });
  found.sort((a, b) => Number(b.name === MAPS) - Number(a.name === MAPS));
  return found.flatMap(({ name, dims }) => placesOf(output, name, dims.slice(1, -space.length), target));
}

function placesOf(output: Output, variable: string, dims: readonly string[], target: number): Layer[] {
  let places: { names: string[]; explainer?: string; at: Record<string, number> }[] = [{ names: [], at: {} }];
  for (const dim of dims) {
    const along = dim === "target" ? [["", target] as const] : namesOf(output, dim).map((label, at) => [label, at] as const);
    places = places.flatMap(({ names, explainer, at }) =>
      along.map(([label, index]) => ({
        names: label ? [...names, label] : names,
        explainer: dim === "explainer" ? label : explainer,
        at: { ...at, [dim]: index },
      })),
    );
  }
  const prefix = variable === MAPS ? [] : [variable];
  return places.map(({ names, explainer, at }) => {
    const parts = [...prefix, ...names];
    return { id: parts.join(":"), title: parts.join(", "), variable, explainer, at };
  });
}

/** The maps that are shown at first: of the first explainers that look at the network. */
export function firstLayers(layers: readonly Layer[], count: number): Layer[] {
  const told = layers.filter(({ variable, explainer }) => variable === MAPS && !explainer?.startsWith(CONTROLS));
  return (told.length ? told : layers).slice(0, count);
}

/** The maps that are shown of a case: those that are asked for, or one of a volume and three of a picture; over the image but one. */
export function chosenLayers(layers: readonly Layer[], { explainers, mode }: Settings, grid: Grid): Layer[] {
  const chosen = explainers ? layers.filter(({ id }) => explainers.includes(id)) : firstLayers(layers, grid.space.length === 3 ? 1 : 3);
  return modeOf(mode, layers, grid) === "overlay" ? chosen.slice(0, 1) : chosen;
}

/** The maps lie over a volume, and beside a picture, where the settings do not say. */
export function modeOf(asked: Settings["mode"], layers: readonly Layer[], grid: Grid): "beside" | "overlay" {
  return asked ?? (grid.space.length === 3 && layers.length ? "overlay" : "beside");
}

/** Reads a map, and says in words what keeps it from being seen. */
export async function readMap(one: Case, layer: Layer): Promise<FoundMap> {
  const { data } = await one.numbers(layer.variable, layer.at);
  const raised = layer.variable === MAPS ? await flagsOf(one, "map_flags", layer.at) : [];
  if (data.every(Number.isNaN)) {
    if (await hasNoTarget(one, layer)) return { values: data, words: "There is no map: the image has no such target." };
    if (layer.variable !== MAPS) return { values: data, words: "There is no map: this explainer makes none of this kind." };
    if (!raised.includes("not_finite")) throw missing(layer.variable);
  }
  return { values: data, words: wordsOf(data, raised) };
}

/** The flags that are raised at a place of an array of flags, by the names that the store gives them. */
export async function flagsOf(one: Case, name: string, at: Readonly<Record<string, number>> = {}): Promise<string[]> {
  const variable = one.output.variables.get(name);
  if (!variable) return [];
  const own = Object.fromEntries(Object.entries(at).filter(([dim]) => variable.dims.includes(dim)));
  const { data, dims, shape } = await one.numbers(name);
  const offset = dims.reduce((sum, dim, axis) => sum * shape[axis]! + (own[dim] ?? 0), 0);
  return meanings(variable.attributes).filter(([, mask]) => (data[offset] ?? 0) & mask).map(([meaning]) => meaning);
}

export function meanings(attributes: Readonly<Record<string, unknown>>): [string, number][] {
  const masks = (attributes.flag_masks ?? attributes.flag_values ?? []) as number[];
  return String(attributes.flag_meanings ?? "").split(" ").flatMap((meaning, at) => (masks[at] === undefined ? [] : [[meaning, masks[at]]]));
}

async function hasNoTarget(one: Case, { at }: Layer): Promise<boolean> {
  if (at.target === undefined || !one.output.variables.has("target_class")) return false;
  return (await one.numbers("target_class")).data[at.target]! < 0;
}

function wordsOf(values: Numbers, raised: readonly string[]): string {
  if (!values.some(Number.isFinite)) return "The map is not finite: no value of it is a number.";
  if (values.every((value) => value === 0)) {
    return `The map is blank: every value of it is zero${raised.includes("no_source") ? ", as there is nothing to make it from" : ""}.`;
  }
  return "";
}

/** Places of a map that can be seen but for these, in words. */
export function doubtsOf(values: Numbers): string {
  let lost = 0;
  for (const value of values) if (!Number.isFinite(value)) lost++;
  return lost ? `${lost} of ${values.length} places are not finite, and left out` : "";
}

/** The scale that hides none of a map's values: that of the cohort is found by some images alone. */
export function showing({ limit, signed }: Scale, values: Numbers): Scale {
  return { limit, signed: signed || values.some((value) => value < 0) };
}

/** The scale of one map by itself, by the rule of the cohort's: the strongest half percent of places saturates. */
export function ownScale(values: Numbers): Scale {
  return { limit: quantilesOf(values, Math.abs)(0.995) || 1, signed: values.some((value) => value < 0) };
}
