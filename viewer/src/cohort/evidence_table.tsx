import { useLoaded, WhenLoaded } from "../loading.tsx";
import type { Output } from "../output/output.ts";
import { type Route, writeRoute } from "../route.ts";
import { targetsOf } from "./behind.ts";
import { ALL_CLASSES, type Cell, type Evidence, type Family, readEvidence } from "./evidence.ts";
import { worklistLink } from "./links.ts";
import { withInterval } from "./numbers.ts";
import { Text } from "./text.tsx";

/** The evidence table of the metrics: a table a family, for all classes together or one of them. */
export function EvidenceSection({ output, route }: { output: Output; route: Route }) {
  const found = useLoaded(() => readEvidence(output), [output]);
  return (
    <section aria-labelledby="evidence">
      <h2 id="evidence">Evidence: can the maps be trusted</h2>
      <WhenLoaded of={found} what="the evidence table">
        {(evidence) => (evidence ? <Families evidence={evidence} route={route} targets={targetsOf(output)} /> : <Nothing />)}
      </WhenLoaded>
    </section>
  );
}

function Nothing() {
  return (
    <p>
      There is no <code>report/evidence.csv</code> beside this store: the run computed no metrics, or its report was not
      written. <code>cohortlens evaluate</code> computes metrics, and writes the report again.
    </p>
  );
}

function Families({ evidence, route, targets }: { evidence: Evidence; route: Route; targets: readonly string[] }) {
  const asked = route.settings.get("class") ?? ALL_CLASSES;
  const shown = evidence.families.has(asked) ? asked : ALL_CLASSES;
  return (
    <>
      <p>
        Means over images and targets, with 95 % intervals from bootstrap samples of subjects. <b>Controls</b> are maps
        that know nothing of the model. <span class="chance">A number with ≈</span> cannot be told from at least one of
        them. Each number leads to the cases behind it, the least first.
      </p>
      {evidence.classes.length > 2 && <Classes names={evidence.classes} shown={shown} route={route} />}
      <div class="families">
        {evidence.families.get(shown)!.map((family) => <FamilyTable key={family.name} family={family} behind={(metric, explainer) => behind(metric, explainer, shown, targets)} />)}
      </div>
    </>
  );
}

function Classes({ names, shown, route }: { names: readonly string[]; shown: string; route: Route }) {
  const choose = (name: string) => {
    const settings = new URLSearchParams(route.settings);
    settings.set("class", name);
    location.hash = writeRoute({ ...route, settings });
  };
  return (
    <label>
      Maps of the class{" "}
      <select value={shown} onChange={(event) => choose(event.currentTarget.value)}>
        {names.map((name) => <option key={name} value={name}>{name}</option>)}
      </select>
    </label>
  );
}

function FamilyTable({ family, behind }: { family: Family; behind: (metric: string, explainer: string) => string }) {
  return (
    <div class="scroll" role="region" tabIndex={0} aria-label={`Metrics of ${family.name}`}>
      <table>
        <caption>{family.name}</caption>
        <thead>
          <tr>
            <th scope="col">explainer</th>
            {family.columns.map(({ metric, better, about }) => (
              <th scope="col" class="number" key={metric} title={about}>
                {metric.replaceAll("_", " ")}
                {better !== "none" && <small>{better} is better</small>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {family.rows.map(({ explainer, isControl, cells }) => (
            <tr key={explainer} class={isControl ? "control" : undefined}>
              <th scope="row"><Text of={explainer} />{isControl && <small>control</small>}</th>
              {cells.map((cell, at) => (
                <td class="number" key={family.columns[at]!.metric}>
                  <Mean cell={cell} link={behind(family.columns[at]!.metric, explainer)} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Mean({ cell, link }: { cell: Cell; link: string }) {
  const text = withInterval(cell.mean, cell.low, cell.high);
  if (!cell.maps) return <span class="quiet">{text}</span>;
  return (
    <a href={link} class={cell.isChance ? "chance" : undefined} title={`${cell.maps} maps of ${cell.subjects} subjects`}>
      {cell.isChance && <abbr title="cannot be told from a control">≈ </abbr>}
      {text}
    </a>
  );
}

/** Images by a metric, the least first; of several targets those of the one that is named as the class is, or of the first. */
function behind(metric: string, explainer: string, ofClass: string, targets: readonly string[]): string {
  const target = targets.includes(ofClass) ? ofClass : targets[0] ?? "";
  const filters = ofClass === ALL_CLASSES ? [] : [`target_class/${target}:is:${ofClass}`];
  return worklistLink(filters, `metric_${metric}/${target}/${explainer}`);
}
