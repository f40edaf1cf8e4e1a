import { useEffect, useRef, useState } from "preact/hooks";
import { useListener } from "../listening.ts";
import type { Route } from "../route.ts";
import { resettle, setAll, settle } from "./address.ts";
import { asCsv, download } from "./csv.ts";
import { FilterForm, FilterList } from "./filtering.tsx";
import { readFilters, writeFilter } from "./filters.ts";
import type { Column, Listing } from "./listing.ts";
import { type Order, readSort } from "./order.ts";

interface Props {
  readonly listing: Listing;
  readonly order: Order;
  readonly columns: readonly Column[];
  readonly hasPictures: boolean;
  readonly route: Route;
  readonly isBusy: boolean;
}

/** What decides which images are listed, and how: each control changes the address alone. */
export function Toolbar({ listing, order, columns, hasPictures, route, isBusy }: Props) {
  const { filters } = readFilters(route.settings, listing.columns);
  const texts = filters.map(writeFilter);
  const setFilters = (all: readonly string[]) => settle(route, (settings) => setAll(settings, "filter", all));
  return (
    <div class="toolbar">
      <div class="controls">
        <Search route={route} />
        <Sorting listing={listing} route={route} />
        <Panel title="Filter"><FilterForm listing={listing} onAdd={(added) => setFilters([...texts, ...added.map(writeFilter)])} /></Panel>
        <Panel title="Columns"><ColumnChoice listing={listing} columns={columns} route={route} /></Panel>
        <label>
          <input
            type="checkbox"
            checked={hasPictures}
            onChange={(event) => settle(route, (settings) => settings.set("pictures", event.currentTarget.checked ? "yes" : "no"))}
          />{" "}
          Pictures
        </label>
        <button type="button" onClick={async () => download(await asCsv(listing, order, columns), "worklist.csv")}>Download CSV</button>
        <span class="count" role="status">{isBusy ? "Searching …" : sayCount(order.count, listing.rows)}</span>
      </div>
      <FilterList filters={filters} unread={order.unread} onChange={setFilters} />
    </div>
  );
}

export function sayCount(count: number, of: number): string {
  const said = (number: number) => number.toLocaleString("en");
  const images = of === 1 ? "image" : "images";
  return count === of ? `${said(of)} ${images}` : `${said(count)} of ${said(of)} ${images}`;
}

function Search({ route }: { route: Route }) {
  const field = useRef<HTMLInputElement>(null);
  const asked = route.settings.get("search") ?? "";
  const [text, setText] = useState(asked);
  useEffect(() => setText(asked), [asked]);
  useEffect(() => {
    if (text === asked) return undefined;
    const timer = setTimeout(() => resettle(route, (settings) => (text ? settings.set("search", text) : settings.delete("search"))), 250);
    return () => clearTimeout(timer);
  }, [text]);
  useListener("keydown", (event) => {
    if (event.key !== "/" || (event.target as Element).matches("input, select, textarea")) return;
    event.preventDefault();
    field.current?.focus();
  });
  return (
    <input
      ref={field}
      type="search"
      aria-label="Search by image"
      aria-keyshortcuts="/"
      placeholder="Search by image ( / )"
      value={text}
      onInput={(event) => setText(event.currentTarget.value)}
    />
  );
}

function Sorting({ listing, route }: { listing: Listing; route: Route }) {
  const sort = readSort(route.settings, listing.columns);
  const set = (value: string) => settle(route, (settings) => (value ? settings.set("sort", value) : settings.delete("sort")));
  return (
    <span class="sorting">
      <select aria-label="Sort by" value={sort?.column.name ?? ""} onChange={(event) => set(event.currentTarget.value)}>
        <option value="">in the order of the store</option>
        {listing.columns.map(({ name, title }) => <option value={name} key={name}>{`by ${title}`}</option>)}
      </select>
      {sort && (
        <button type="button" onClick={() => set(`${sort.descending ? "" : "-"}${sort.column.name}`)}>
          {sort.descending ? "descending" : "ascending"}
        </button>
      )}
    </span>
  );
}

function ColumnChoice({ listing, columns, route }: { listing: Listing; columns: readonly Column[]; route: Route }) {
  const shown = new Set(columns.map(({ name }) => name));
  const toggle = (name: string) => {
    const names = listing.columns.map((one) => one.name).filter((one) => (one === name ? !shown.has(one) : shown.has(one)));
    settle(route, (settings) => setAll(settings, "columns", names));
  };
  return (
    <fieldset>
      <legend>Columns that are shown</legend>
      <button type="button" onClick={() => settle(route, (settings) => settings.delete("columns"))}>As usual</button>
      {listing.columns.filter(({ name }) => name !== "id").map(({ name, title, about }) => (
        <label key={name} title={about}>
          <input type="checkbox" checked={shown.has(name)} onChange={() => toggle(name)} /> {title}
        </label>
      ))}
    </fieldset>
  );
}

/** A panel that opens below its title, and closes by Escape or by a press elsewhere. */
function Panel({ title, children }: { title: string; children: preact.ComponentChildren }) {
  const panel = useRef<HTMLDetailsElement>(null);
  const close = () => panel.current?.removeAttribute("open");
  useListener("keydown", ({ key }) => {
    if (key !== "Escape" || !panel.current?.open) return;
    if (panel.current.contains(document.activeElement)) panel.current.querySelector("summary")!.focus(); // not to be lost with the panel
    close();
  });
  useListener("pointerdown", ({ target }) => !panel.current?.contains(target as Node) && close());
  return (
    <details ref={panel}>
      <summary>{title}</summary>
      <div class="panel">{children}</div>
    </details>
  );
}
