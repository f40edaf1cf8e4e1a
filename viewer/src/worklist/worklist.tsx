import { useEffect, useMemo, useState } from "preact/hooks";
import { Message } from "../message.tsx";
import type { Output } from "../output/output.ts";
import type { Route } from "../route.ts";
import { keepPlace, settle } from "./address.ts";
import { fetchedOf } from "./cells.ts";
import { readFilters } from "./filters.ts";
import { Grid } from "./grid.tsx";
import { type Column, type Listing, openListing } from "./listing.ts";
import { type Order, orderOf, orderSettings, readSort } from "./order.ts";
import { hasSmallPictures } from "./picture.tsx";
import { Toolbar } from "./toolbar.tsx";

interface Listed {
  readonly listing: Listing;
  readonly order: Order;
  readonly key: string;
}

/** All images of an output, as filtered, sorted and shown by the settings of the address. */
export function WorklistView({ output, route }: { output: Output; route: Route }) {
  const key = orderSettings(route.settings).toString();
  const listed = useListed(output, route, key);
  const columns = useMemo(() => shownColumns(listed, route.settings), [listed, route.settings.getAll("columns").join()]);
  if (listed instanceof Error) return <Message error={listed} />;
  if (!listed) return <p class="message" role="status">Opening the worklist …</p>;
  const { listing, order } = listed;
  const asked = route.settings.get("pictures");
  const hasPictures = asked ? asked === "yes" : hasSmallPictures(output);
  const sorted = readSort(route.settings, listing.columns);
  return (
    <main class="worklist" aria-busy={listed.key !== key}>
      <h1 class="unseen">Worklist</h1>
      {listing.notices.map((notice) => <p class="notice" role="status" key={notice}>{notice}</p>)}
      <Toolbar {...{ listing, order, columns, hasPictures, route }} isBusy={listed.key !== key} />
      {order.count ? (
        <Grid
          {...{ output, order, columns, hasPictures, sorted }}
          fetched={fetchedOf(listing)}
          settings={route.settings}
          start={placeIn(route.settings, order)}
          onSort={(column) => settle(route, (settings) => turnSort(settings, column, sorted))}
          onMove={keepPlace}
        />
      ) : (
        <p class="message" role="status">{listing.rows ? "No image meets all filters." : "There are no images."}</p>
      )}
    </main>
  );
}

function useListed(output: Output, route: Route, key: string): Listed | Error | undefined {
  const [listed, setListed] = useState<Listed | Error>();
  useEffect(() => {
    let wanted = true;
    const keep = (found: Listed | Error) => wanted && setListed(found);
    Promise.all([openListing(output), orderOf(output, route.settings)]).then(([listing, order]) => keep({ listing, order, key }), keep);
    return () => {
      wanted = false;
    };
  }, [output, key]);
  return listed;
}

/** Chooses the columns: first those that filters and sort name, so that one sees why an image is where it is. */
function shownColumns(listed: Listed | Error | undefined, settings: URLSearchParams): Column[] {
  if (!listed || listed instanceof Error) return [];
  const { columns, usual } = listed.listing;
  const asked = settings.getAll("columns");
  const named = readFilters(settings, columns).filters.map(({ column }) => column.name);
  const sort = readSort(settings, columns)?.column.name;
  const reason = named.includes("status") ? ["reason"] : [];
  const chosen = new Set(["id", ...(sort ? [sort] : []), ...named, ...reason, ...(asked.length ? asked : usual)]);
  return [...chosen].flatMap((name) => columns.find((column) => column.name === name) ?? []);
}

function placeIn(settings: URLSearchParams, order: Order): number {
  const place = Number(settings.get("at") ?? 0);
  return Number.isInteger(place) ? Math.max(0, Math.min(place, order.count - 1)) : 0;
}

/** Sorts by a column: first as one would look for what stands out, then the other way, then not at all. */
function turnSort(settings: URLSearchParams, column: Column, sorted: { column: Column; descending: boolean } | undefined): void {
  const begin = column.kind === "number" || column.kind === "flags" ? "-" : "";
  const other = begin ? "" : "-";
  if (sorted?.column !== column) settings.set("sort", `${begin}${column.name}`);
  else if (sorted.descending === (begin === "-")) settings.set("sort", `${other}${column.name}`);
  else settings.delete("sort");
}
