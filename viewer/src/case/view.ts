import { useEffect, useState } from "preact/hooks";
import { type Route, writeRoute } from "../route.ts";
import { readSettings, type Settings, writeSettings } from "./settings.ts";

export type Change = (changed: Partial<Settings>) => void;

const WAIT = 200;

/** The settings of the view, which its address follows a moment later, in the place of the entry in the history. */
export function useSettings(route: Route): [Settings, Change] {
  const query = route.settings.toString();
  const [settings, setSettings] = useState(() => readSettings(route.settings));
  useEffect(() => setSettings(readSettings(new URLSearchParams(query))), [query]);
  useEffect(() => {
    const written = writeRoute({ ...route, settings: writeSettings(settings) });
    if (written === location.hash) return;
    const timer = setTimeout(() => history.replaceState(history.state, "", written), WAIT);
    return () => clearTimeout(timer);
  }, [settings]);
  return [settings, (changed) => setSettings((before) => ({ ...before, ...changed }))];
}
