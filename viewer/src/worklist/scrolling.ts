import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

/** The height beyond which browsers do not lay out an element; a longer list is scrolled in proportion. */
const TALLEST = 8_000_000;

export interface Scrolling {
  readonly scroller: { current: HTMLDivElement | null };
  /** Height of what is scrolled, in pixels. */
  readonly height: number;
  /** The first and the last place in sight, and the one after it. */
  readonly first: number;
  readonly end: number;
  /** Where the row of a place is drawn, in pixels from the top of what is scrolled. */
  offset(place: number): number;
  /** Brings a place into sight. */
  show(place: number): void;
}

/**
 * Scrolls a list of any length of which only what is in sight is drawn.
 *
 * A list that is taller than a browser can lay out follows the scroll bar in proportion where that jumps, and pixel by
 * pixel where a wheel, a finger or a key moves it.
 */
export function useScrolling(list: { readonly count: number }, rowHeight: number, start: number): Scrolling {
  const scroller = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, scrolled: 0, height: 600 });
  const full = list.count * rowHeight;
  const height = Math.min(full, TALLEST);
  const ratio = full > height ? (full - view.height) / (height - view.height) : 1;

  const move = (top: number) => {
    const element = scroller.current!;
    const room = heightOf(element);
    const clamped = Math.max(0, Math.min(top, full - room));
    element.scrollTop = clamped / ratio;
    setView({ top: clamped, scrolled: element.scrollTop, height: room });
  };

  useEffect(() => {
    const element = scroller.current!;
    const follow = () =>
      setView((before) => {
        const scrolled = element.scrollTop;
        const room = heightOf(element);
        const moved = scrolled - before.scrolled;
        const isAtEnd = scrolled <= 0 || scrolled >= height - room - 1;
        const isStep = ratio > 1 && !isAtEnd && Math.abs(moved) < 3 * room;
        return { top: isStep ? before.top + moved : scrolled * ratio, scrolled, height: room };
      });
    const sizes = new ResizeObserver(follow);
    sizes.observe(element);
    element.addEventListener("scroll", follow, { passive: true });
    return () => {
      sizes.disconnect();
      element.removeEventListener("scroll", follow);
    };
  }, [ratio, height]);

  useLayoutEffect(() => move(start * rowHeight), [list, rowHeight, start]);

  return {
    scroller,
    height,
    first: Math.max(0, Math.floor(view.top / rowHeight)),
    end: Math.min(list.count, Math.ceil((view.top + view.height) / rowHeight)),
    offset: (place) => view.scrolled + place * rowHeight - view.top,
    show(place) {
      const top = place * rowHeight;
      const last = top + rowHeight - view.height;
      if (top < view.top) move(top);
      else if (last > view.top) move(last);
    },
  };
}

/** The height in which rows are seen: that of the element without its heading, which stays in sight. */
function heightOf(element: HTMLElement): number {
  return element.clientHeight - ((element.firstElementChild as HTMLElement | null)?.offsetHeight ?? 0);
}
