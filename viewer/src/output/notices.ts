import type { Output } from "./output.ts";

const PENDING = 0;

/** Says what a reader of an output has to know before trusting what is not there. */
export async function noticesOf(output: Output): Promise<string[]> {
  if (!output.variables.has("status")) return [];
  const status = (await output.read("status")).data as Int8Array;
  const pending = status.reduce((sum, one) => sum + Number(one === PENDING), 0);
  if (!pending) return [];
  return [
    `The run is still at work, or was cut off: ${pending} of ${status.length} images are not entered in the store yet; ` +
      "those that are explained already can be opened. Worklist, evidence and results come at its end. Load the page again later; the command of the run goes on where it was.",
  ];
}
