import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { inWords, type Refusal } from "./output/errors.ts";

/** What became of something that is fetched: nothing yet, its value, or why it is not there. */
export type Loaded<Value> = Value | Refusal | undefined;

/** Fetches when what it depends on changes; an answer that comes too late is left. */
export function useLoaded<Value>(load: () => Promise<Value>, depends: readonly unknown[]): Loaded<Value> {
  const [found, setFound] = useState<{ depends: readonly unknown[]; value: Value | Refusal }>();
  useEffect(() => {
    let isCurrent = true;
    const keep = (value: Value | Refusal) => isCurrent && setFound({ depends, value });
    load().then(keep, (error: unknown) => keep(inWords(error)));
    return () => {
      isCurrent = false;
    };
  }, depends);
  return found && found.depends.every((one, at) => Object.is(one, depends[at])) ? found.value : undefined;
}

/** The value of what was loaded; undefined while it loads, and where loading failed. */
export function loaded<Value>(found: Loaded<Value>): Value | undefined {
  return found instanceof Error ? undefined : found;
}

/** Shows what was fetched, or that it comes, or why it does not. */
export function WhenLoaded<Value>({ of, what, children }: { of: Loaded<Value>; what: string; children: (value: Value) => ComponentChildren }) {
  if (of instanceof Error) return <p class="failure" role="alert"><b>{of.title}.</b> {of.message}</p>;
  if (of === undefined) return <p class="quiet" role="status">Loading {what} …</p>;
  return <>{children(of)}</>;
}
