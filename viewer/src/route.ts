/** A view of the page, as the fragment of its address has it: `#/case/<image>?explainers=gradcam`. */
export interface Route {
  readonly view: "worklist" | "case" | "cohort";
  readonly image: string;
  readonly settings: URLSearchParams;
}

export function readRoute(fragment: string): Route {
  const [path = "", query = ""] = split(fragment.replace(/^#\/?/, ""), "?");
  const [view, ...rest] = path.split("/");
  const settings = new URLSearchParams(query);
  if (view === "case" && rest.length) return { view, image: decoded(rest.join("/")), settings };
  return { view: view === "cohort" ? view : "worklist", image: "", settings };
}

export function writeRoute({ view, image, settings }: Route): string {
  const path = view === "case" ? `case/${encodeURIComponent(image)}` : view;
  const query = settings.toString();
  return query ? `#/${path}?${query}` : `#/${path}`;
}

/** Decodes a name; one that was typed as it is, with a percent sign, stays so. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function split(text: string, mark: string): [string, string] {
  const at = text.indexOf(mark);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}
