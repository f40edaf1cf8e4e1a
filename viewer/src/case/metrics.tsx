import { loaded, useLoaded } from "../loading.tsx";
import type { Variable } from "../output/output.ts";
import { rounded } from "./numbers.ts";
import { type Case, kindOf, namesOf, ofImages, titleOf } from "./reading.ts";

const BETTER: Readonly<Record<string, string>> = { higher: "↑ higher is better", lower: "↓ lower is better" };

/** The metrics of the maps for a target: a row an explainer, a column a metric. */
export function Metrics({ one, target }: { one: Case; target: number }) {
  const metrics = ofImages(one.output).filter((variable) => kindOf(variable) === "metric" && variable.dims.includes("explainer"));
  if (!metrics.length) return null;
  const explainers = namesOf(one.output, "explainer");
  return (
    <section>
      <h2>Metrics of the maps</h2>
      <div class="scrolled">
        <table>
          <thead>
            <tr>
              <td />
              {metrics.map((metric) => {
                const better = BETTER[String(metric.attributes.better)] ?? "neither is better";
                return <th scope="col" key={metric.name} title={String(metric.attributes.references ?? "")}>{titleOf(metric)} <span title={better} aria-hidden="true">{better[0] === "n" ? "" : better[0]}</span><span class="unseen">{better.replace(/^. /, "")}</span></th>;
              })}
            </tr>
          </thead>
          <Rows one={one} metrics={metrics} explainers={explainers} target={target} />
        </table>
      </div>
      <p class="quiet">{[...new Set(metrics.map(({ attributes }) => BETTER[String(attributes.better)]))].filter(Boolean).join(", ")}</p>
    </section>
  );
}

function Rows({ one, metrics, explainers, target }: { one: Case; metrics: readonly Variable[]; explainers: readonly string[]; target: number }) {
  const found = useLoaded(() => Promise.all(metrics.map(({ name }) => one.numbers(name, { target }).catch(() => undefined))), [one, target]);
  return (
    <tbody>
      {explainers.map((explainer, row) => (
        <tr key={explainer}>
          <th scope="row">{explainer}</th>
          {metrics.map((metric, column) => {
            const values = loaded(found);
            const value = values?.[column]?.data[row];
            return <td key={metric.name}>{value !== undefined ? rounded(value) : values ? "not read" : "…"}</td>;
          })}
        </tr>
      ))}
    </tbody>
  );
}
