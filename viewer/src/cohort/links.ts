import { writeRoute } from "../route.ts";

/** The address of the worklist with some of its images: `<column>:<op>:<value>`, sorted by a column, after a minus the largest first. */
export function worklistLink(filters: readonly string[], sort = ""): string {
  const settings = new URLSearchParams();
  for (const filter of filters) settings.append("filter", filter);
  if (sort) settings.set("sort", sort);
  return writeRoute({ view: "worklist", image: "", settings });
}

export function caseLink(image: string): string {
  return writeRoute({ view: "case", image, settings: new URLSearchParams() });
}
