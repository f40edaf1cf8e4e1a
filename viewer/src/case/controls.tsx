import type { ComponentChildren } from "preact";
import type { Plane } from "./geometry.ts";
import type { Tool } from "./gestures.ts";
import type { Layer } from "./layers.ts";
import { clamp, MOST_ZOOM } from "./settings.ts";
import type { Change } from "./view.ts";
import type { Preset, Window } from "./windows.ts";

/** What the controls show, with the page's own choices in place of what was not set. */
export interface Shown {
  readonly target: number;
  readonly mode: "beside" | "overlay";
  readonly opacity: number;
  readonly planes: readonly Plane[];
  readonly layers: readonly Layer[];
  readonly channel: string;
  readonly window: Window | undefined;
  readonly zoom: number;
  readonly smooth: boolean;
  readonly mask: boolean;
  readonly tool: Tool;
}

interface ControlsProps {
  readonly shown: Shown;
  readonly targets: readonly string[];
  readonly layers: readonly Layer[];
  readonly planes: readonly Plane[];
  readonly channels: readonly string[];
  readonly presets: readonly Preset[];
  readonly hasMask: boolean;
  readonly change: Change;
  setTool(tool: Tool): void;
}

const TOOLS: readonly (readonly [Tool, string])[] = [["cursor", "Crosshair"], ["pan", "Move"], ["window", "Window"]];

/** The screens on which all controls are shown from the start. */
const WIDE = "(min-width: 60rem)";

/** The controls of all panels; on a narrow screen they open by a tap. */
export function Controls(props: ControlsProps) {
  const { shown, targets, channels, planes, change } = props;
  return (
    <details class="controls" open={matchMedia(WIDE).matches}>
      <summary>Settings of the view</summary>
      <div role="toolbar" aria-label="View">
        {targets.length > 1 && <Choice title="maps for" value={targets[shown.target]!} of={targets} choose={(target) => change({ target })} />}
        {props.layers.length > 0 && <Maps {...props} />}
        {planes.length > 1 && <Planes {...props} />}
        {channels.length > 1 && <Choice title="channel" value={shown.channel} of={channels} choose={(channel) => change({ channel, window: undefined })} />}
        <Windowing {...props} />
        <Zooming {...props} />
        <fieldset>
          <legend>drag</legend>
          {TOOLS.map(([tool, title]) => (
            <Pressed key={tool} on={shown.tool === tool} press={() => props.setTool(tool)}>{title}</Pressed>
          ))}
        </fieldset>
        <fieldset>
          <legend>show</legend>
          {props.hasMask && <Pressed on={shown.mask} press={() => change({ mask: !shown.mask })}>Mask</Pressed>}
          <Pressed on={shown.smooth} press={() => change({ smooth: !shown.smooth })}>Smooth</Pressed>
        </fieldset>
      </div>
    </details>
  );
}

function Maps({ shown, layers, change }: ControlsProps) {
  const chosen = shown.layers.map(({ id }) => id);
  const toggle = (id: string) => change({ explainers: layers.map((one) => one.id).filter((one) => chosen.includes(one) !== (one === id)) });
  return (
    <fieldset>
      <legend>maps</legend>
      <Pressed on={shown.mode === "beside"} press={() => change({ mode: "beside" })}>Side by side</Pressed>
      <Pressed on={shown.mode === "overlay"} press={() => change({ mode: "overlay" })}>Over the image</Pressed>
      {shown.mode === "overlay" && (
        <>
          <Choice title="map" value={chosen[0] ?? ""} of={layers.map(({ id }) => id)} choose={(id) => change({ explainers: [id] })} />
          <label>
            opacity
            <input type="range" min="0" max="1" step="0.05" value={shown.opacity} onInput={(event) => change({ opacity: Number(event.currentTarget.value) })} />
          </label>
        </>
      )}
      {shown.mode === "beside" && (
        <details class="chooser">
          <summary>{`${shown.layers.length} of ${layers.length} maps`}</summary>
          <div>
            {layers.map(({ id, title }) => (
              <label key={id}>
                <input type="checkbox" checked={chosen.includes(id)} onChange={() => toggle(id)} /> {title}
              </label>
            ))}
          </div>
        </details>
      )}
    </fieldset>
  );
}

function Planes({ shown, planes, change }: ControlsProps) {
  const chosen = shown.planes.map(({ name }) => name);
  const toggle = (name: string) => {
    const next = planes.map((plane) => plane.name).filter((one) => chosen.includes(one) !== (one === name));
    if (next.length) change({ planes: next });
  };
  return (
    <fieldset>
      <legend>planes</legend>
      {planes.map(({ name }) => <Pressed key={name} on={chosen.includes(name)} press={() => toggle(name)}>{name}</Pressed>)}
    </fieldset>
  );
}

function Windowing({ shown, presets, change }: ControlsProps) {
  const { window } = shown;
  if (!window) return null;
  const named = presets.find((preset) => preset.window.centre === window.centre && preset.window.width === window.width);
  const set = (changed: Partial<Window>) => {
    const next = { ...window, ...changed };
    if (Number.isFinite(next.centre) && next.width > 0) change({ window: next });
  };
  return (
    <fieldset>
      <legend>window</legend>
      <label>level <input type="number" step="any" value={digits(window.centre)} onChange={(event) => set({ centre: event.currentTarget.valueAsNumber })} /></label>
      <label>width <input type="number" step="any" min="0" value={digits(window.width)} onChange={(event) => set({ width: event.currentTarget.valueAsNumber })} /></label>
      <select aria-label="window by the image's values" value={named?.name ?? ""} onChange={(event) => {
        const chosen = presets.find(({ name }) => name === event.currentTarget.value);
        if (chosen) change({ window: chosen.window });
      }}>
        {!named && <option value="">as set</option>}
        {presets.map(({ name }) => <option key={name}>{name}</option>)}
      </select>
      <button type="button" onClick={() => change({ window: undefined })}>Reset<span class="unseen"> the window</span></button>
    </fieldset>
  );
}

function Zooming({ shown, change }: ControlsProps) {
  const by = (factor: number) => change({ zoom: clamp(shown.zoom * factor, 1, MOST_ZOOM) });
  return (
    <fieldset>
      <legend>zoom</legend>
      <button type="button" aria-label="Smaller" onClick={() => by(1 / 1.25)}>−</button>
      <output>{Math.round(100 * shown.zoom)} %</output>
      <button type="button" aria-label="Larger" onClick={() => by(1.25)}>+</button>
      <button type="button" onClick={() => change({ zoom: undefined, centre: undefined })}>Whole<span class="unseen"> image</span></button>
    </fieldset>
  );
}

function Choice({ title, value, of, choose }: { title: string; value: string; of: readonly string[]; choose: (value: string) => void }) {
  return (
    <label class="choice">
      {title} <select value={value} onChange={(event) => choose(event.currentTarget.value)}>{of.map((one) => <option key={one}>{one}</option>)}</select>
    </label>
  );
}

function Pressed({ on, press, children }: { on: boolean; press: () => void; children: ComponentChildren }) {
  return <button type="button" aria-pressed={on} onClick={press}>{children}</button>;
}

function digits(value: number): string {
  return String(Number(value.toPrecision(5)));
}
