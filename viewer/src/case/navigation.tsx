import { loaded, useLoaded } from "../loading.tsx";
import { writeRoute } from "../route.ts";
import { neighbours, orderSettings } from "../worklist/order.ts";
import { useKeys } from "./keys.ts";
import type { Case } from "./reading.ts";
import { forAnotherCase, type Settings, writeSettings } from "./settings.ts";

/** Links to the case before and the next in the order of the worklist, and back to it as it was left. */
export function Navigation({ one, settings }: { one: Case; settings: Settings }) {
  const list = orderSettings(writeSettings(settings));
  const found = loaded(useLoaded(() => neighbours(one.output, one.image, list), [one, list.toString()]));
  const address = (image: string | undefined) => image && writeRoute({ view: "case", image, settings: writeSettings(forAnotherCase(settings)) });
  const [before, next] = [address(found?.previous), address(found?.next)];
  const open = (to: string | undefined) => () => {
    if (to) location.hash = to;
  };
  useKeys({ k: open(before), j: open(next), "Alt ArrowLeft": open(before), "Alt ArrowRight": open(next) });
  return (
    <nav class="beside" aria-label="Cases">
      <a href={writeRoute({ view: "worklist", image: "", settings: list })}>Worklist</a>
      <Step title="Before" address={before} />
      {found && found.count > 0 && <span class="quiet">{found.place + 1} of {found.count}</span>}
      <Step title="Next" address={next} />
    </nav>
  );
}

function Step({ title, address }: { title: string; address: string | undefined }) {
  return address ? <a href={address}>{title}</a> : <a class="quiet" role="link" aria-disabled="true">{title}</a>;
}
