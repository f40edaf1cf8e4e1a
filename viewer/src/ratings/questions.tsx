import { useId } from "preact/hooks";
import { Text } from "../cohort/text.tsx";
import { type Verdict, VERDICTS } from "./rating.ts";

const KEYS: Record<string, Verdict> = { a: "agree", d: "disagree", u: "unsure" };

/** Agree, disagree or unsure; the keys A, D and U choose, and a second press takes back. */
export function Verdicts({ about, chosen, choose }: { about: string; chosen: Verdict | null; choose: (verdict: Verdict | null) => void }) {
  const name = useId();
  const toggle = (verdict: Verdict) => choose(verdict === chosen ? null : verdict);
  return (
    <fieldset
      onKeyDown={(event) => {
        const verdict = KEYS[event.key];
        if (verdict) toggle(verdict);
      }}
    >
      <legend>{about}</legend>
      {VERDICTS.map((verdict) => (
        <label key={verdict}>
          <input type="radio" name={name} checked={verdict === chosen} onClick={() => toggle(verdict)} />
          {verdict}
        </label>
      ))}
    </fieldset>
  );
}

/** Which of the maps that are shown help, the best first: in the order in which they are chosen. */
export function Helps(props: { shown: readonly string[]; helps: readonly string[] | null; choose: (helps: readonly string[] | null) => void }) {
  const { shown, helps, choose } = props;
  if (!shown.length) return null;
  const toggle = (name: string) => {
    const others = (helps ?? []).filter((one) => one !== name);
    const next = helps?.includes(name) ? others : [...others, name];
    choose(next.length ? next : null);
  };
  return (
    <fieldset>
      <legend>Maps that help, the best first</legend>
      {shown.map((name) => (
        <label key={name}>
          <input type="checkbox" checked={helps?.includes(name) ?? false} onChange={() => toggle(name)} />
          <Text of={name} />
          {helps?.includes(name) && <b><span class="unseen">rank </span>{helps.indexOf(name) + 1}</b>}
        </label>
      ))}
      <label>
        <input type="checkbox" checked={helps?.length === 0} onChange={() => choose(helps?.length === 0 ? null : [])} />
        none of them
      </label>
    </fieldset>
  );
}
