import { useMemo } from "preact/hooks";
import type { Grid } from "../case/geometry.ts";
import { useLoaded, WhenLoaded } from "../loading.tsx";
import type { Output, Variable } from "../output/output.ts";
import type { Route } from "../route.ts";
import { arrangeResults, type Group } from "./arrays.ts";
import { type Behind, casesBehind, valuesBehind } from "./behind.ts";
import { EvidenceSection } from "./evidence_table.tsx";
import { commonGrid } from "./grid.ts";
import { isTooLarge, meansOf, regionTables } from "./means.ts";
import { Pictures } from "./pictures.tsx";
import { ArrayTable } from "./tables.tsx";

/** What is known of the cohort as a whole, each number with the cases behind it. */
export function CohortView({ output, route }: { output: Output; route: Route }) {
  const groups = useMemo(() => arrangeResults(output), [output]);
  const known = useLoaded(() => Promise.all([commonGrid(output), casesBehind(output)]), [output]);
  return (
    <main class="cohort">
      <h1>Cohort of {output.images} {output.images === 1 ? "image" : "images"}</h1>
      <EvidenceSection output={output} route={route} />
      <WhenLoaded of={known} what="the results">
        {([grid, behind]) => (
          <>
            {groups.map((group) => <Result key={group.title} output={output} group={group} grid={grid} behind={behind} />)}
            <Regions output={output} behind={behind} />
          </>
        )}
      </WhenLoaded>
      {!groups.length && <p>The run had no <code>results</code> of the whole cohort, such as mean maps or concepts.</p>}
    </main>
  );
}

function Result({ output, group, grid, behind }: { output: Output; group: Group; grid: Grid | undefined; behind: Behind }) {
  return (
    <section aria-labelledby={`result-${group.title}`}>
      <h2 id={`result-${group.title}`}>{group.title.replaceAll("_", " ")}</h2>
      {grid && group.pictures.map((of) => <Pictures key={of.name} output={output} of={of} grid={grid} behind={behind} />)}
      {group.tables.map((columns) => <ArrayTable key={columns[0]!.name} output={output} columns={columns} behind={behind} />)}
      {group.others.length > 0 && <Others arrays={group.others} />}
    </section>
  );
}

function Others({ arrays }: { arrays: readonly Variable[] }) {
  return (
    <details>
      <summary>Arrays that are not shown here</summary>
      <ul>
        {arrays.map(({ name, dims, shape, attributes }) => (
          <li key={name} data-name={name}><code>{name}</code>: {String(attributes.long_name)} ({dims.map((dim, at) => `${dim} ${shape[at]}`).join(" × ")})</li>
        ))}
      </ul>
    </details>
  );
}

function Regions({ output, behind }: { output: Output; behind: Behind }) {
  const tables = useMemo(() => regionTables(output), [output]);
  if (!tables.length) return null;
  return (
    <section aria-labelledby="regions">
      <h2 id="regions">Regions of the atlas</h2>
      <p>Means over images and targets; each leads to its images, the largest first. The report has intervals and comparisons between classes.</p>
      {tables.map(({ dims, columns }) =>
        columns.some(isTooLarge)
          ? <p class="quiet" key={dims.join()}>{columns.map(({ name }) => name).join(", ")}: too many numbers to be read by a page. See the report.</p>
          : <ArrayTable key={dims.join()} output={output} columns={columns} dims={dims} read={(of) => meansOf(output, of)} behind={behind} valuesBehind={(of, at) => valuesBehind(output, of, at)} />,
      )}
    </section>
  );
}
