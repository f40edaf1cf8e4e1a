import { deliveredStatus } from "../output/delivered.ts";
import { openCurrent } from "../output/rows.ts";
import { flagsOf, meanings } from "./layers.ts";
import { type Case, kindOf, namesOf, ofImages } from "./reading.ts";

/** Reads what became of an image, in the store's word; while a run is at work, as far as it has come. */
export async function readStatus(one: Case): Promise<string> {
  const status = await meaningOf(one, "status");
  if (status !== "pending") return status;
  const delivered = await deliveredStatus(one.output, one.row);
  return meanings(one.output.variables.get("status")!.attributes).find(([, flag]) => flag === delivered)?.[0] ?? status;
}

/** What is known of a case in words: from the store, and from the worklist where the store does not hold it. */
export interface Facts {
  readonly label: string;
  readonly predicted: string;
  readonly right: boolean | undefined;
  readonly reason: string;
  readonly subject: string;
  readonly vanished: boolean;
}

export async function readFacts(one: Case): Promise<Facts> {
  const [present, label, told] = await Promise.all([meaningOf(one, "present"), one.texts("label"), listed(one)]);
  return {
    label: label.data[0] ?? "",
    predicted: String(told("predicted") ?? ""),
    right: told("right") as boolean | undefined,
    reason: String(told("reason") ?? ""),
    subject: String(told("subject") ?? ""),
    vanished: present === "vanished",
  };
}

/** Reads the columns of the worklist that the store has not; without a worklist of this very plan nothing is told. */
async function listed({ output, row }: Case): Promise<(column: string) => unknown> {
  const table = await openCurrent(output, "viewer/worklist.parquet").catch(() => undefined);
  const columns = ["predicted", "right", "reason", "subject"].filter((name) => table?.names.includes(name));
  const cells = await Promise.all(columns.map(async (name) => [name, (await table!.read(name, row, row + 1))[0] ?? undefined] as const));
  const found = new Map<string, unknown>(cells);
  return (column) => found.get(column);
}

async function meaningOf(one: Case, name: string): Promise<string> {
  const variable = one.output.variables.get(name);
  const value = variable && (await one.numbers(name)).data[0];
  return meanings(variable?.attributes ?? {}).find(([, flag]) => flag === value)?.[0] ?? "";
}

/** Lists the flags that are raised about an image and its maps, in words, such as "map blank: gradcam". */
export async function readFlags(one: Case): Promise<string[]> {
  const flags = ofImages(one.output).filter((variable) => kindOf(variable) === "flags");
  const found = await Promise.all(flags.map(async ({ name, dims }) => {
    const about = name.replace(/_flags$/, "").replaceAll("_", " ");
    const raised = new Map<string, string[]>();
    for (const at of placesAlong(one, dims.slice(1))) {
      const where = Object.entries(at).map(([dim, index]) => namesOf(one.output, dim)[index]!).join(", ");
      for (const flag of await flagsOf(one, name, at)) raised.set(flag, [...(raised.get(flag) ?? []), where]);
    }
    return [...raised].map(([flag, places]) => `${about} ${flag.replaceAll("_", " ")}${places[0] ? `: ${places.join("; ")}` : ""}`);
  }));
  return found.flat();
}

/** Lists every place along some dimensions; along the targets none is named where there is but one. */
function placesAlong({ output }: Case, dims: readonly string[]): Record<string, number>[] {
  return dims.reduce<Record<string, number>[]>((places, dim) => {
    const names = namesOf(output, dim);
    return names.length === 1 ? places : places.flatMap((place) => names.map((_, at) => ({ ...place, [dim]: at })));
  }, [{}]);
}
