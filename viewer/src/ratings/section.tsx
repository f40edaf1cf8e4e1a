import { useContext, useEffect, useMemo, useRef } from "preact/hooks";
import { readGrid, readMask } from "../case/found.ts";
import type { Grid } from "../case/geometry.ts";
import { SetOverlay } from "../case/image.tsx";
import { useKeys } from "../case/keys.ts";
import { chosenLayers, type Layer, layersOf } from "../case/layers.ts";
import { type Case, namesOf } from "../case/reading.ts";
import type { Settings } from "../case/settings.ts";
import { loaded, useLoaded, WhenLoaded } from "../loading.tsx";
import { useDrawing } from "./drawing.tsx";
import { RatingForm } from "./form.tsx";
import { rememberedRater } from "./rater.ts";

const MAPS = "attribution";

/** The rating of a case, beside its pictures, over which its region is drawn. */
export function RateCase({ one, settings, target }: { one: Case; settings: Settings; target: number }) {
  const grid = useLoaded(async () => ((await isEntered(one)) ? readGrid(one) : null), [one]);
  const form = useRef<HTMLDetailsElement>(null);
  useKeys({
    r: () => {
      form.current!.open = true;
      (form.current!.querySelector("input") ?? form.current!.querySelector("summary"))?.focus();
    },
  });
  return (
    <details class="rating" ref={form} open={Boolean(rememberedRater())}>
      <summary><h2>Rate this case</h2></summary>
      <WhenLoaded of={grid} what="the form">
        {(found) => found ? <Rate one={one} settings={settings} target={target} grid={found} /> : <p class="quiet">A case can be rated when the run is finished.</p>}
      </WhenLoaded>
    </details>
  );
}

/** Tells whether the store names the commit that delivered the image, as it does after a finished run, and as a rating has to. */
async function isEntered({ output, numbers }: Case): Promise<boolean> {
  return !output.variables.has("shard") || (await numbers("shard")).data[0]! >= 0;
}

function Rate({ one, settings, target, grid }: { one: Case; settings: Settings; target: number; grid: Grid }) {
  const layers = useMemo(() => layersOf(one.output, target), [one, target]);
  const shown = chosenLayers(layers, settings, grid).filter(({ variable }) => variable === MAPS);
  const mask = useLoaded(() => readMask(one), [one]);
  const { drawing, overlay } = useDrawing(grid);
  useLaidOver(overlay, drawing);
  const map = async (explainer: string) => {
    const layer = shown.find((layer) => layer.explainer === explainer) as Layer;
    return (await one.numbers(layer.variable, layer.at)).data;
  };
  return (
    <RatingForm
      output={one.output}
      row={one.row}
      image={one.image}
      target={namesOf(one.output, "target")[target] ?? null}
      shown={shown.map(({ explainer }) => explainer!)}
      grid={grid}
      drawing={drawing}
      mask={loaded(mask)?.values}
      map={map}
    />
  );
}

function useLaidOver(overlay: ReturnType<typeof useDrawing>["overlay"], drawing: ReturnType<typeof useDrawing>["drawing"]): void {
  const layOver = useContext(SetOverlay);
  const { mask, tool, radius } = drawing;
  useEffect(() => layOver(overlay), [mask, tool, radius]);
  useEffect(() => () => layOver(undefined), []);
}
