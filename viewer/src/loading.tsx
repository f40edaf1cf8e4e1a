import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { inWords } from "./output/errors.ts";

/** What became of something that is fetched: nothing yet, its value, or why it is not there. */
export type Loaded<Value> = { readonly value?: Value; readonly error?: Error };

/** Fetches when what it depends on changes; an answer that comes too late is left. */
export function useLoaded<Value>(load: () => Promise<Value>, depends: readonly unknown[]): Loaded<Value> {
  const [loaded, setLoaded] = useState<Loaded<Value>>({});
  useEffect(() => {
    let current = true;
    const keep = (found: Loaded<Value>) => current && setLoaded(found);
    setLoaded({});
    load().then((value) => keep({ value }), (error: unknown) => keep({ error: inWords(error) }));
    return () => {
      current = false;
    };
  }, depends);
  return loaded;
}

/** Shows what was fetched, or that it comes, or why it does not. */
export function WhenLoaded<Value>(props: { of: Loaded<Value>; what: string; children: (value: Value) => ComponentChildren }) {
  const { value, error } = props.of;
  if (error) return <p class="failure" role="alert"><b>{titleOf(error)}.</b> {error.message}</p>;
  if (value === undefined) return <p class="quiet" role="status">Loading {props.what} …</p>;
  return <>{props.children(value)}</>;
}

function titleOf(error: Error): string {
  return "title" in error ? String(error.title) : "This could not be shown";
}
