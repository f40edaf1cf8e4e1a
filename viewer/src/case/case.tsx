import { useCallback, useMemo, useState } from "preact/hooks";
import { loaded, useLoaded } from "../loading.tsx";
import type { Output } from "../output/output.ts";
import { rowOf } from "../output/rows.ts";
import { RateCase } from "../ratings/section.tsx";
import type { Route } from "../route.ts";
import { type Facts, readFacts, readStatus } from "./facts.ts";
import { Help } from "./help.tsx";
import { type Overlay, SetOverlay } from "./image.tsx";
import { useKeys } from "./keys.ts";
import { Navigation } from "./navigation.tsx";
import { Pictures } from "./pictures.tsx";
import { caseOf, namesOf } from "./reading.ts";
import { Side } from "./side.tsx";
import { useSettings } from "./view.ts";

/** The view of one image: its pictures and maps, and what is known of it. */
export function CaseView({ output, route }: { output: Output; route: Route }) {
  const row = useLoaded(() => rowOf(output, route.image), [output, route.image]);
  if (row === undefined) return <main class="message"><p role="status">Looking for {route.image} …</p></main>;
  if (row instanceof Error) return <main class="message"><h1>{route.image}</h1><p role="alert">{row.message}</p></main>;
  return <Opened output={output} route={route} row={row} />;
}

function Opened({ output, route, row }: { output: Output; route: Route; row: number }) {
  const one = useMemo(() => caseOf(output, row, route.image), [output, row, route.image]);
  const [settings, change] = useSettings(route);
  const [isHelped, setHelped] = useState(false);
  const [overlay, setOverlay] = useState<Overlay>();
  const status = useLoaded(() => readStatus(one), [one]);
  const facts = useLoaded(() => readFacts(one), [one]);
  const targets = namesOf(output, "target");
  const target = Math.max(targets.indexOf(settings.target ?? ""), 0);
  const layOver = useCallback((layer: Overlay | undefined) => setOverlay(() => layer), []);
  useKeys({ "?": () => setHelped(true) });
  return (
    <main class="case">
      <header class="case-head">
        <h1>{route.image}</h1>
        <Navigation one={one} settings={settings} />
        <button type="button" class="help-button" onClick={() => setHelped(true)} aria-label="Keys and gestures">?</button>
        {typeof status === "string" && <Status status={status} facts={loaded(facts)} />}
      </header>
      {isHelped && <Help close={() => setHelped(false)} />}
      {status === undefined && <p role="status">Opening {route.image} …</p>}
      {[status, facts].map((found, at) => found instanceof Error && <p role="alert" key={at}>{found.message}</p>)}
      {status === "explained" && <Pictures one={one} settings={settings} change={change} target={target} overlay={overlay} />}
      {typeof status === "string" && status !== "explained" && <NoPictures status={status} reason={loaded(facts)?.reason} />}
      {typeof status === "string" && (
        <SetOverlay.Provider value={layOver}>
          <Side one={one} status={status} target={target}>
            <RateCase one={one} settings={settings} target={target} />
          </Side>
        </SetOverlay.Provider>
      )}
    </main>
  );
}

/** What became of the image, its label and what the network says of it, in a line. */
function Status({ status, facts }: { status: string; facts: Facts | undefined }) {
  const right = facts?.right === undefined ? "" : facts.right ? ", as the label" : ", unlike the label";
  return (
    <dl class="facts" aria-label="Status">
      <div><dt>status</dt><dd>{status}{facts?.vanished && "; no longer in the cohort"}</dd></div>
      <div><dt>label</dt><dd>{facts ? facts.label || "not known" : "…"}</dd></div>
      {facts?.predicted && <div><dt>predicted</dt><dd>{facts.predicted}{right}</dd></div>}
      {facts?.subject && <div><dt>subject</dt><dd>{facts.subject}</dd></div>}
    </dl>
  );
}

const NO_PICTURES: Readonly<Record<string, string>> = {
  pending: "The image has not been explained yet: the run is not finished, or was told to leave the image out.",
  quarantined: "The image was set aside: it could not be read, or did not fit.",
  failed: "The image could not be explained.",
  withdrawn: "The image was withdrawn: what was stored of it is gone.",
};

function NoPictures({ status, reason }: { status: string; reason: string | undefined }) {
  return (
    <section class="pictures panel-words" role="status">
      <p>{NO_PICTURES[status] ?? `The image is ${status}: there is nothing to see.`}</p>
      {reason && <p>The reason: {reason}</p>}
    </section>
  );
}
