import type { TargetedSubmitEvent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ANY_FLAG, type Filter, sayFilter, writeFilter } from "./filters.ts";
import type { Column, Listing, Whole } from "./listing.ts";

const MOST_WORDS = 200; // that are offered in a menu; of more, one is typed

/** The filters that are set, each with a button that takes it away. */
export function FilterList({ filters, unread, onChange }: { filters: readonly Filter[]; unread: readonly string[]; onChange(texts: string[]): void }) {
  if (!filters.length && !unread.length) return null;
  const texts = filters.map(writeFilter);
  return (
    <ul class="filters" aria-label="Filters">
      {filters.map((filter, at) => (
        <li key={texts[at]}>
          <button type="button" onClick={() => onChange(texts.filter((_, other) => other !== at))} aria-label={`Remove the filter: ${sayFilter(filter)}`}>
            {sayFilter(filter)} <span aria-hidden="true">×</span>
          </button>
        </li>
      ))}
      {unread.map((text) => (
        <li key={text} role="alert">{`“${text}” in the address is no filter of this output, and is left out.`}</li>
      ))}
      <li><button type="button" onClick={() => onChange([])}>Clear all</button></li>
    </ul>
  );
}

/** A form that adds a filter on any column: its fields are those of the column's kind. */
export function FilterForm({ listing, onAdd }: { listing: Listing; onAdd(filters: Filter[]): void }) {
  const choices = listing.columns.filter(({ name }) => name !== "id");
  const [name, setName] = useState("");
  const column = choices.find((one) => one.name === name);
  const whole = useWhole(listing, column);
  const submit = (event: TargetedSubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    if (column) onAdd(filtersIn(column, new FormData(event.currentTarget)));
  };
  return (
    <form onSubmit={submit}>
      <label>
        Column{" "}
        <select value={name} onChange={(event) => setName(event.currentTarget.value)} required>
          <option value="">choose …</option>
          {choices.map((one) => <option value={one.name} key={one.name}>{one.title}</option>)}
        </select>
      </label>
      {column && <p class="quiet">{column.about}</p>}
      {column && (whole ? <Fields key={column.name} column={column} whole={whole} /> : <p role="status">Reading the column …</p>)}
      <button type="submit" disabled={!whole}>Add the filter</button>
    </form>
  );
}

function Fields({ column, whole }: { column: Column; whole: Whole }) {
  if (column.kind === "number") return <Bounds values={whole.values} />;
  if (column.kind === "flags") {
    return (
      <>
        <label>That <select name="operator"><option value="has">has</option><option value="lacks">lacks</option></select></label>{" "}
        <label>flag <select name="value">{[ANY_FLAG, ...Object.keys(column.flags ?? {})].map((flag) => <option value={flag} key={flag}>{flag === ANY_FLAG ? "any flag" : flag.replaceAll("_", " ")}</option>)}</select></label>
      </>
    );
  }
  if (column.kind === "truth") {
    return <label>is <select name="value"><option>yes</option><option>no</option><option value="">unknown</option></select></label>;
  }
  const words = [...whole.words].sort();
  return (
    <>
      <label><select name="operator" aria-label="comparison"><option value="is">is</option><option value="not">is not</option></select></label>{" "}
      {words.length > MOST_WORDS
        ? <label>value <input name="value" /></label>
        : <label>value <select name="value">{words.map((word) => <option value={word} key={word}>{word || "unknown"}</option>)}</select></label>}
    </>
  );
}

function Bounds({ values }: { values: ArrayLike<number> }) {
  let least = Infinity;
  let greatest = -Infinity;
  for (let at = 0; at < values.length; at++) {
    if (values[at]! < least) least = values[at]!;
    if (values[at]! > greatest) greatest = values[at]!;
  }
  if (least > greatest) return <p>No image has a value.</p>;
  return (
    <>
      <label>at least <input name="min" type="number" step="any" placeholder={least.toPrecision(4)} /></label>{" "}
      <label>at most <input name="max" type="number" step="any" placeholder={greatest.toPrecision(4)} /></label>
    </>
  );
}

function filtersIn(column: Column, form: FormData): Filter[] {
  const given = (name: string) => String(form.get(name) ?? "");
  if (column.kind !== "number") return [{ column, operator: (given("operator") || "is") as Filter["operator"], value: given("value") }];
  return (["min", "max"] as const).filter((operator) => given(operator)).map((operator) => ({ column, operator, value: given(operator) }));
}

function useWhole(listing: Listing, column: Column | undefined): Whole | undefined {
  const [found, setFound] = useState<{ column: Column; whole: Whole }>();
  useEffect(() => {
    if (column) listing.whole(column).then((whole) => setFound({ column, whole }));
  }, [listing, column]);
  return found?.column === column ? found?.whole : undefined;
}
