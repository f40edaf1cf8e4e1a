import { useLoaded } from "../loading.tsx";
import type { Variable } from "../output/output.ts";
import { rounded } from "./numbers.ts";
import { type Case, namesOf, titleOf } from "./reading.ts";

/** A small array of a case: a number, a list along one dimension, or a table along the last of several. */
export function Table({ one, variable, target }: { one: Case; variable: Variable; target: number }) {
  const at: Record<string, number> = variable.dims.includes("target") ? { target } : {};
  const found = useLoaded(async () => {
    const values = await one.numbers(variable.name, at);
    const labels = await Promise.all(values.dims.map((dim) => labelsOf(one, dim)));
    return { values, labels };
  }, [one, variable.name, target]);
  if (found instanceof Error) return <p role="alert">{found.message}</p>;
  if (!found) return <p role="status">Loading {variable.name} …</p>;
  const { values, labels } = found;
  const unit = variable.attributes.units === "1" || !variable.attributes.units ? "" : ` ${String(variable.attributes.units)}`;
  const cell = (offset: number) => {
    const value = values.data[offset] as number | string | undefined;
    return typeof value === "number" ? `${rounded(value)}${unit}` : (value || "not known");
  };
  if (!values.dims.length) return <p class="value"><span>{titleOf(variable)}</span> <b>{cell(0)}</b></p>;
  const columns = values.dims.length > 1 ? labels.at(-1)! : [""];
  const rows = combined(values.dims.length > 1 ? labels.slice(0, -1) : labels);
  return (
    <div class="scrolled">
      <table>
        <caption>{titleOf(variable)}</caption>
        {columns.length > 1 && <thead><tr><td />{columns.map((name) => <th scope="col" key={name}>{name}</th>)}</tr></thead>}
        <tbody>
          {rows.map((name, row) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              {columns.map((column, place) => <td key={column}>{cell(row * columns.length + place)}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

async function labelsOf({ output }: Case, dim: string): Promise<string[]> {
  return !(`${dim}_names` in output.attributes) && output.variables.has(dim) ? output.labels(dim) : namesOf(output, dim);
}

function combined(labels: readonly string[][]): string[] {
  return labels.reduce<string[]>((names, along) => names.flatMap((name) => along.map((label) => (name ? `${name}, ${label}` : label))), [""]);
}
