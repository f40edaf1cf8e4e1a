import { useEffect, useErrorBoundary, useLayoutEffect, useRef, useState } from "preact/hooks";
import { CaseView } from "./case/case.tsx";
import { CohortView } from "./cohort/cohort.tsx";
import { Text } from "./cohort/text.tsx";
import { useListener } from "./listening.ts";
import { loaded, useLoaded } from "./loading.tsx";
import { Message } from "./message.tsx";
import { inWords, Refusal } from "./output/errors.ts";
import { noticesOf } from "./output/notices.ts";
import { type Output, openOutput } from "./output/output.ts";
import { readRoute, type Route, writeRoute } from "./route.ts";
import { WorklistView } from "./worklist/worklist.tsx";

export function App() {
  const route = useRoute();
  const output = useLoaded(() => openOutput(new URL("../", location.href)), []);
  useTitle(route, loaded(output));
  if (output instanceof Error) return <Message error={output} />;
  if (!output) return <p class="message" role="status">Opening the output …</p>;
  return (
    <>
      <Bar output={output} route={route} />
      <Notices output={output} />
      <View key={`${route.view}/${route.image}`} output={output} route={route} />
    </>
  );
}

/** One view; if it fails, the others can still be reached. */
function View({ output, route }: { output: Output; route: Route }) {
  const [failure] = useErrorBoundary();
  if (failure) return <Message error={inWords(failure)} />;
  if (route.view === "case") return <CaseView output={output} route={route} />;
  if (route.view === "cohort") return <CohortView output={output} route={route} />;
  return <WorklistView output={output} route={route} />;
}

function Bar({ output, route }: { output: Output; route: Route }) {
  const link = (view: "worklist" | "cohort", title: string) => (
    <a href={writeRoute({ view, image: "", settings: new URLSearchParams() })} aria-current={route.view === view ? "page" : undefined}>
      {title}
    </a>
  );
  return (
    <header class="bar">
      <nav aria-label="Views">
        {link("worklist", "Worklist")}
        {link("cohort", "Cohort")}
        <a href="../report/index.html">Report</a>
      </nav>
      <p><Text of={nameOf(output)} /></p>
    </header>
  );
}

/** What holds for the whole output, and what no view has caught. */
function Notices({ output }: { output: Output }) {
  const known = useLoaded(() => noticesOf(output), [output]);
  const uncaught = useUncaught();
  const told = [...(known instanceof Error ? [known.message] : known ?? []), ...uncaught];
  return <div role="status">{told.map((notice) => <p class="notice" key={notice}>{notice}</p>)}</div>;
}

function useUncaught(): string[] {
  const [said, setSaid] = useState<string[]>([]);
  useListener("unhandledrejection", (event) => {
    const { title, message } = inWords(event.reason);
    setSaid((before) => [...new Set([...before, `${title}: ${message}`])]);
    if (event.reason instanceof Refusal) event.preventDefault(); // a bug goes to the console as well
  });
  return said;
}

/**
 * The page's title says where one is, and what is opened leads the focus to its heading, as soon as it is there.
 *
 * From one image to the next the focus would otherwise be lost with the link that was followed; it stays where it is on
 * something that is still there.
 */
function useTitle(route: Route, output: Output | undefined): void {
  const before = useRef(route);
  useEffect(() => {
    const view = route.view === "case" ? route.image : route.view === "cohort" ? "Cohort" : "Worklist";
    document.title = [view, output && nameOf(output), "cohortlens"].filter(Boolean).join(" · ").slice(0, 200);
  }, [route.view, route.image, output]);
  useLayoutEffect(() => {
    const isSameView = before.current.view === route.view;
    if (isSameView && before.current.image === route.image) return undefined;
    before.current = route;
    if (!isSameView) scrollTo(0, 0);
    return onceThere("main h1", (heading) => {
      if (isSameView && document.activeElement !== document.body) return;
      heading.setAttribute("tabindex", "-1");
      heading.focus({ preventScroll: true });
    });
  }, [route.view, route.image]);
}

/** Does something with an element of the page, now or when it comes; returns what ends the waiting. */
function onceThere(selector: string, meet: (element: HTMLElement) => void): () => void {
  const look = () => {
    const element = document.querySelector<HTMLElement>(selector);
    if (!element) return;
    observer.disconnect();
    meet(element);
  };
  const observer = new MutationObserver(look);
  observer.observe(document.body, { childList: true, subtree: true });
  look();
  return () => observer.disconnect();
}

function nameOf(output: Output): string {
  return String(output.attributes.comment ?? output.attributes.title ?? "");
}

function useRoute(): Route {
  const [fragment, setFragment] = useState(location.hash);
  useListener("hashchange", () => setFragment(location.hash));
  return readRoute(fragment);
}
