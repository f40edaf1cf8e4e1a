import type { ComponentChildren } from "preact";
import { loaded, useLoaded, WhenLoaded } from "../loading.tsx";
import type { Output, Variable } from "../output/output.ts";
import { idOf } from "../output/rows.ts";
import { isOfImages, labelsAlong } from "./arrays.ts";
import { caseLink } from "./links.ts";
import { written } from "./numbers.ts";
import type { Behind } from "./behind.ts";
import { Text } from "./text.tsx";

interface Props {
  output: Output;
  columns: readonly Variable[];
  behind: Behind;
  /** Dimensions of the table, where they are not those of the arrays: of their means. */
  dims?: readonly string[];
  /** Reads the numbers of a column, in C order over the dimensions; those of the array if it is left out. */
  read?: (column: Variable) => Promise<ArrayLike<number>>;
  /** The address of the images whose values a number sums up, by the labels of its place. */
  valuesBehind?: (column: Variable, at: Readonly<Record<string, string>>) => string | undefined;
}

/** Arrays over the same dimensions as one table: a row a place, a column an array. */
export function ArrayTable({ output, columns, behind, dims = columns[0]!.dims, read, valuesBehind }: Props) {
  const first = columns[0]!;
  const shape = dims.map((dim) => first.shape[first.dims.indexOf(dim)]!);
  const name = columns.map((column) => column.name).join();
  const found = useLoaded(() => readTable(output, columns, dims, shape, read), [output, name]);
  return (
    <WhenLoaded of={found} what="numbers">
      {({ labels, values }) => (
        <div class="scroll" role="region" tabIndex={0} aria-label={`Table of ${columns.map(wordsOf).join(", ")}`}>
          <table>
            <thead>
              <tr>
                {dims.map((dim) => <th scope="col" key={dim}><Text of={titleOfDim(output, dim)} /></th>)}
                {columns.map((column) => (
                  <th scope="col" class="number" key={column.name} title={column.name}>{wordsOf(column)}</th>
                ))}
              </tr>
            </thead>
            <tbody>
              {places(shape).map((place, row) => (
                <tr key={row}>
                  {place.map((at, axis) => <Place key={dims[axis]} of={first} dim={dims[axis]!} label={labels[axis]![at]!} behind={behind} />)}
                  {columns.map((column, at) => (
                    <td class="number" key={column.name}>
                      <Linked to={valuesBehind?.(column, Object.fromEntries(dims.map((dim, axis) => [dim, labels[axis]![place[axis]!]!])))}>
                        <Value of={column} value={values[at]![row]!} ids={output} />
                      </Linked>
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </WhenLoaded>
  );
}

function Place({ of, dim, label, behind }: { of: Variable; dim: string; label: string; behind: Behind }) {
  return <th scope="row"><Linked to={behind(of, dim, label)}><Text of={label} /></Linked></th>;
}

/** A link, where there is somewhere to go. */
export function Linked({ to, children }: { to: string | undefined; children: ComponentChildren }) {
  return to ? <a href={to}>{children}</a> : <>{children}</>;
}

function Value({ of, value, ids }: { of: Variable; value: number; ids: Output }) {
  if (isOfImages(of)) return value < 0 ? <>none</> : <CaseLink output={ids} row={value} />;
  return <>{flagsIn(of, value) ?? written(value)}</>;
}

/** A link to the case at a row of the store. */
export function CaseLink({ output, row }: { output: Output; row: number }) {
  const id = loaded(useLoaded(() => idOf(output, row), [output, row]));
  return id === undefined ? <>row {row}</> : <a href={caseLink(id)}><Text of={id} /></a>;
}

async function readTable(
  output: Output,
  columns: readonly Variable[],
  dims: readonly string[],
  shape: readonly number[],
  read = async ({ name }: Variable) => (await output.read(name)).data as ArrayLike<number>,
) {
  const [labels, values] = await Promise.all([
    Promise.all(dims.map((dim, axis) => labelsAlong(output, dim, shape[axis]!))),
    Promise.all(columns.map(read)),
  ]);
  return { labels, values };
}

/** Names the bits that are set; undefined of an array without flags. */
function flagsIn({ attributes }: Variable, value: number): string | undefined {
  const masks = attributes.flag_masks as number[] | undefined;
  const meanings = String(attributes.flag_meanings ?? "").split(" ");
  return masks && (meanings.filter((_, at) => value & masks[at]!).join(", ").replaceAll("_", " ") || "none");
}

/** All places of an array, in C order. */
function places(shape: readonly number[]): number[][] {
  return shape.reduce<number[][]>((found, size) => found.flatMap((place) => [...Array(size).keys()].map((at) => [...place, at])), [[]]);
}

function titleOfDim(output: Output, dim: string): string {
  return String(output.variables.get(dim)?.attributes.long_name ?? dim.replaceAll("_", " "));
}

/** What an array is, without what its fill value means. */
function wordsOf({ name, attributes }: Variable): string {
  return String(attributes.long_name ?? name).replace(/^row of /, "").replace(/; (-1|NaN|bits)\b.*$/, "");
}
