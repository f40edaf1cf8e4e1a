import { useEffect, useMemo, useState } from "preact/hooks";
import type { Output } from "../output/output.ts";
import { writeRoute } from "../route.ts";
import { type Cell, type Fetched, sayCell } from "./cells.ts";
import type { Column } from "./listing.ts";
import { type Order, orderSettings } from "./order.ts";
import { Picture } from "./picture.tsx";
import { useScrolling } from "./scrolling.ts";

const BEYOND = 3; // rows that are drawn out of sight
const WIDTHS = { word: "10rem", number: "8rem", truth: "6rem", flags: "11rem" };
const WIDER: Readonly<Record<string, string>> = { id: "14rem", reason: "32rem", status: "7rem" };

interface Props {
  readonly output: Output;
  readonly order: Order;
  readonly fetched: Fetched;
  readonly columns: readonly Column[];
  readonly hasPictures: boolean;
  readonly settings: URLSearchParams;
  /** The place that is at the top to begin with. */
  readonly start: number;
  readonly sorted: { column: Column; descending: boolean } | undefined;
  onSort(column: Column): void;
  onMove(place: number): void;
}

/** The listed images as a grid, of which only the rows in sight are drawn and fetched. */
export function Grid(props: Props) {
  const { order, fetched, columns, hasPictures, settings, start, onMove } = props;
  const rowHeight = useRowHeight(hasPictures);
  const scrolling = useScrolling(order, rowHeight, start);
  const [active, setActive] = useState(start);
  const first = Math.max(0, scrolling.first - BEYOND);
  const end = Math.min(order.count, scrolling.end + BEYOND);
  const places = useMemo(() => Array.from({ length: Math.max(0, end - first) }, (_, at) => first + at), [first, end]);
  useFetching(fetched, columns, order, places);
  useEffect(() => setActive(start), [order]);
  useEffect(() => {
    const timer = setTimeout(() => onMove(scrolling.first), 300);
    return () => clearTimeout(timer);
  }, [scrolling.first]);

  const step = (to: number) => {
    const place = Math.max(0, Math.min(order.count - 1, to));
    setActive(place);
    scrolling.show(place);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const screen = Math.max(1, scrolling.end - scrolling.first - 2);
    const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + screen, PageUp: active - screen, Home: 0, End: order.count - 1 }[event.key];
    if (to !== undefined) step(to);
    else if (event.key === "Enter" && event.target === event.currentTarget) open(idAt(props, active), settings);
    else return;
    event.preventDefault();
  };
  const widths = [...(hasPictures ? [`${rowHeight}px`] : []), ...columns.map(({ name, kind }) => WIDER[name] ?? WIDTHS[kind])].join(" ");

  return (
    <div
      class="grid"
      role="grid"
      aria-label="Images"
      aria-rowcount={order.count + 1}
      aria-colcount={columns.length + Number(hasPictures)}
      aria-activedescendant={order.count ? `place-${active}` : undefined}
      tabIndex={0}
      ref={scrolling.scroller}
      onKeyDown={onKeyDown}
    >
      <Heading {...props} widths={widths} />
      <div class="rows" role="rowgroup" style={{ height: `${scrolling.height}px` }}>
        {places.map((place) => (
          <Row
            {...props}
            key={place}
            place={place}
            isActive={place === active}
            style={{ transform: `translateY(${scrolling.offset(place)}px)`, height: `${rowHeight}px`, gridTemplateColumns: widths }}
            onChoose={() => setActive(place)}
          />
        ))}
      </div>
    </div>
  );
}

function Heading({ columns, hasPictures, sorted, onSort, widths }: Props & { widths: string }) {
  return (
    <div class="heading" role="row" aria-rowindex={1} style={{ gridTemplateColumns: widths }}>
      {hasPictures && <span role="columnheader" aria-label="picture" />}
      {columns.map((column) => {
        const direction = sorted?.column === column ? (sorted.descending ? "descending" : "ascending") : "none";
        return (
          <span role="columnheader" aria-sort={direction} key={column.name} title={about(column)}>
            <button type="button" onClick={() => onSort(column)} tabIndex={-1}>
              {column.title}
              <span aria-hidden="true">{{ none: "", ascending: " ▲", descending: " ▼" }[direction]}</span>
            </button>
          </span>
        );
      })}
    </div>
  );
}

type RowProps = Props & { place: number; isActive: boolean; style: Record<string, string>; onChoose(): void };

function Row(props: RowProps) {
  const { output, order, fetched, columns, hasPictures, settings, place, isActive, style, onChoose } = props;
  const row = order.rowAt(place);
  const id = idAt(props, place);
  return (
    <div class="row" role="row" id={`place-${place}`} aria-rowindex={place + 2} aria-selected={isActive} style={style} onPointerDown={onChoose}>
      {hasPictures && <span role="gridcell"><Picture output={output} row={row} key={row} /></span>}
      {columns.map((column, at) => {
        const value = fetched.at(column, row);
        const said = value === undefined ? "…" : sayCell(column, value);
        return (
          <span role="gridcell" class={classOf(column, value)} key={column.name} data-title={column.title} title={said.length > 24 ? said : undefined}>
            {at === 0 && id ? <a href={caseAddress(id, settings)} tabIndex={-1}>{said || id}</a> : said}
          </span>
        );
      })}
    </div>
  );
}

function classOf({ name, kind }: Column, value: Cell | undefined): string {
  if (value === undefined) return "waiting";
  return `${kind} ${name === "right" && value === false ? "wrong" : ""} ${kind === "flags" && value ? "raised" : ""}`;
}

function about({ about, units, better }: Column): string {
  const unit = units && units !== "1" ? `, in ${units}` : "";
  return `${about}${unit}${better && better !== "none" ? `; ${better} is better` : ""}`;
}

function idAt({ order, fetched, columns }: Props, place: number): string {
  const id = columns.find(({ name }) => name === "id");
  return id && place < order.count ? String(fetched.at(id, order.rowAt(place)) ?? "") : "";
}

function caseAddress(image: string, settings: URLSearchParams): string {
  return writeRoute({ view: "case", image, settings: orderSettings(settings) });
}

function open(image: string, settings: URLSearchParams): void {
  if (image) location.hash = caseAddress(image, settings);
}

/** Fetches what is in sight, and draws anew when it is there. */
function useFetching(fetched: Fetched, columns: readonly Column[], order: Order, places: readonly number[]): void {
  const [, setDone] = useState(0);
  useEffect(() => {
    let wanted = true;
    const timer = setTimeout(async () => {
      await fetched.fetch(columns, places.map(order.rowAt));
      if (wanted) setDone((done) => done + 1);
    }, 20);
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, [fetched, columns, order, places]);
}

function useRowHeight(hasPictures: boolean): number {
  const [isNarrow, setNarrow] = useState(NARROW.matches);
  useEffect(() => {
    const follow = () => setNarrow(NARROW.matches);
    NARROW.addEventListener("change", follow);
    return () => NARROW.removeEventListener("change", follow);
  }, []);
  return isNarrow ? 92 : hasPictures ? 56 : 34;
}

const NARROW = matchMedia("(max-width: 40rem)");
