import { fetchFile } from "../output/fetching.ts";
import type { Output } from "../output/output.ts";
import type { Scale } from "./colours.ts";
import type { Layer } from "./layers.ts";

/** Scales over the cohort: by array, by explainer. */
export interface Scales {
  readonly images: number;
  readonly scales: Readonly<Record<string, Readonly<Record<string, Scale>>>>;
}

/** Reads the scales that are the same for every case; null where the output has none. */
export async function readScales({ address }: Output): Promise<Scales | null> {
  const answer = await fetchFile(new Request(new URL("viewer/scales.json", address)));
  return answer.ok ? ((await answer.json()) as Scales) : null;
}

export function sharedScale(scales: Scales | null, { variable, explainer = "" }: Layer): Scale | undefined {
  return scales?.scales[variable]?.[explainer];
}
