import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import type { Loaded } from "../loading.tsx";
import type { Scale } from "./colours.ts";
import type { FoundMap, Layer } from "./layers.ts";
import { doubtsOf, ownScale, showing } from "./layers.ts";
import { CaseImage, type ImageProps } from "./image.tsx";
import { Legend } from "./legend.tsx";

/** What all panels of a plane have in common. */
export type Shared = Omit<ImageProps, "title" | "map">;

/** The panel of the image by itself, or what keeps it from being seen. */
export function ImagePanel({ shared, title, error }: { shared: Shared; title: string; error: Error | undefined }) {
  return (
    <Panel title={title}>
      {error && <p class="panel-words" role="alert">{error.message}</p>}
      {!error && !shared.image && <p class="panel-words" role="status">Loading the image …</p>}
      {shared.image && <CaseImage {...shared} title={title} />}
    </Panel>
  );
}

/** The panel of a map: alone in its colours, or laid over the image with an opacity. */
export function MapPanel({ shared, layer, map, scale, opacity, waits }: {
  shared: Shared;
  layer: Layer;
  map: Loaded<FoundMap>;
  scale: Scale | undefined;
  opacity: number | undefined;
  /** Whether the scales of the cohort are still being read. */
  waits: boolean;
}) {
  const own = useMemo(() => (map && !(map instanceof Error) && !scale && !waits ? ownScale(map.values) : undefined), [map, scale, waits]);
  const values = map instanceof Error ? undefined : map?.values;
  const used = useMemo(() => (scale && values ? showing(scale, values) : own), [scale, values, own]);
  const laid = useMemo(() => (values && used ? { values, scale: used, opacity: opacity ?? 1 } : undefined), [values, used, opacity]);
  const doubts = useMemo(() => (map && !(map instanceof Error) && !map.words ? doubtsOf(map.values) : ""), [map]);
  const isOver = opacity !== undefined;
  return (
    <Panel title={layer.title} about={used && laid && !(map instanceof Error) && !map?.words && (
      <>
        <Legend scale={used} title={layer.title} />
        {!scale && <p class="panel-note">Colours of this case alone, not the same in other cases: <code>viewer/scales.json</code> has none for this map.</p>}
        {doubts && <p class="panel-note">{doubts}.</p>}
      </>
    )}>
      {map === undefined && !isOver && <p class="panel-words" role="status">Loading {layer.title} …</p>}
      {map instanceof Error && <p class="panel-words" role="alert">{layer.title}: {map.message}</p>}
      {map && !(map instanceof Error) && map.words && <p class="panel-words" role="status">{map.words}</p>}
      {isOver && <CaseImage {...shared} title={`${layer.title} over the image`} map={map instanceof Error || map?.words ? undefined : laid} />}
      {!isOver && laid && !(map instanceof Error) && !map?.words && <CaseImage {...shared} image={undefined} title={layer.title} map={laid} />}
    </Panel>
  );
}

function Panel({ title, about, children }: { title: string; about?: ComponentChildren; children: ComponentChildren }) {
  return (
    <figure class="case-panel" data-title={title}>
      <figcaption>{title}</figcaption>
      {children}
      {about}
    </figure>
  );
}
