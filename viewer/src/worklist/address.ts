import { type Route, writeRoute } from "../route.ts";

/** Opens the worklist with other settings, as a step that the browser's back button takes back. */
export function settle(route: Route, change: (settings: URLSearchParams) => void): void {
  location.hash = changed(route, change);
}

/** Opens the worklist with other settings in place of those that were: a word that is typed is no ten steps. */
export function resettle(route: Route, change: (settings: URLSearchParams) => void): void {
  location.replace(changed(route, change));
}

/** Keeps in the address which place of the list is in sight; nothing is drawn anew. */
export function keepPlace(place: number): void {
  const [path, query] = location.hash.split("?");
  const settings = new URLSearchParams(query);
  if (place) settings.set("at", String(place));
  else settings.delete("at");
  const text = settings.toString();
  history.replaceState(history.state, "", text ? `${path || "#/worklist"}?${text}` : path || location.pathname);
}

function changed(route: Route, change: (settings: URLSearchParams) => void): string {
  const settings = new URLSearchParams(route.settings);
  settings.delete("at");
  change(settings);
  return writeRoute({ view: "worklist", image: "", settings });
}

/** Puts the values of a setting that may be there several times. */
export function setAll(settings: URLSearchParams, name: string, values: readonly string[]): void {
  settings.delete(name);
  for (const value of values) settings.append(name, value);
}
