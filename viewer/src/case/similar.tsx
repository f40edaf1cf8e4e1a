import { useEffect, useRef } from "preact/hooks";
import { loaded, useLoaded } from "../loading.tsx";
import type { Variable } from "../output/output.ts";
import { idOf } from "../output/rows.ts";
import { writeRoute } from "../route.ts";
import { channelsOf, readChannels, readGrid } from "./found.ts";
import { planesOf } from "./geometry.ts";
import { paint } from "./painting.ts";
import { extent } from "./projection.ts";
import { rounded } from "./numbers.ts";
import { type Case, caseOf, kindOf, ofImages, titleOf } from "./reading.ts";
import { cut } from "./slices.ts";
import { presetsOf } from "./windows.ts";

const SHOWN = 4;

/** Whether an array of the store names other cases by their rows, as that of similar cases does. */
export function namesCases(variable: Variable): boolean {
  return kindOf(variable) === "result" && variable.dims.length < 3 && titleOf(variable).startsWith("row of ");
}

/** Cases that a result of the run holds against this one: links with pictures, and the cosine beside them. */
export function Similar({ one }: { one: Case }) {
  const variables = ofImages(one.output).filter(namesCases);
  if (!variables.length) return null;
  return (
    <section class="near">
      <h2>Similar cases</h2>
      {variables.map((variable) => <Near key={variable.name} one={one} variable={variable} />)}
    </section>
  );
}

interface Neighbour {
  readonly case: Case;
  readonly cosine: number | undefined;
}

function Near({ one, variable }: { one: Case; variable: Variable }) {
  const found = useLoaded(() => neighbours(one, variable.name), [one]);
  if (found instanceof Error) return <p role="alert">{found.message}</p>;
  return (
    <>
      <h3>{titleOf(variable).replace(/^row of /, "").replace(/; .*$/, "")}</h3>
      {loaded(found)?.length === 0 && <p class="quiet">none</p>}
      <ul class="similar">
        {(found ?? []).map((near) => (
          <li key={near.case.row}>
            <a href={writeRoute({ view: "case", image: near.case.image, settings: new URLSearchParams() })}>
              <Thumbnail one={near.case} />
              {near.case.image}
            </a>
            {near.cosine !== undefined && <span class="quiet"> cosine {rounded(near.cosine)}</span>}
          </li>
        ))}
      </ul>
    </>
  );
}

async function neighbours(one: Case, name: string): Promise<Neighbour[]> {
  const cosines = [`${name}_cosine`, name.replace(/_image$/, "_cosine")].find((found) => found !== name && one.output.variables.has(found));
  const [rows, values] = await Promise.all([one.numbers(name), cosines ? one.numbers(cosines) : undefined]);
  const there = [...rows.data].map((row, rank) => ({ row, cosine: values?.data[rank] })).filter(({ row }) => row >= 0);
  return Promise.all(there.slice(0, SHOWN).map(async ({ row, cosine }) => ({ case: caseOf(one.output, row, await idOf(one.output, row)), cosine })));
}

/** A small picture of the middle of an image. */
function Thumbnail({ one }: { one: Case }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const found = useLoaded(async () => {
    const [grid, channels] = await Promise.all([readGrid(one), readChannels(one, channelsOf(one)[0]!)]);
    const plane = planesOf(grid)[0]!;
    const at = plane.across === undefined ? 0 : Math.floor(grid.sides[plane.across]! / 2);
    const window = presetsOf(channels[0]!)[0]!.window;
    return { picture: paint({ channels: channels.map((values) => cut(values, grid, plane, at)), window }, undefined), size: extent(grid, plane) };
  }, [one]);
  const shown = loaded(found);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context || !shown?.picture) return;
    const scale = Math.min(canvas.current!.width / shown.size[0], canvas.current!.height / shown.size[1]);
    const [width, height] = [shown.size[0] * scale, shown.size[1] * scale];
    context.drawImage(shown.picture, (canvas.current!.width - width) / 2, (canvas.current!.height - height) / 2, width, height);
  }, [shown]);
  return <canvas ref={canvas} width="144" height="144" class="thumbnail" aria-hidden="true" />;
}
