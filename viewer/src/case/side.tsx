import type { ComponentChildren } from "preact";
import { loaded, useLoaded } from "../loading.tsx";
import { readFlags } from "./facts.ts";
import { Metrics } from "./metrics.tsx";
import { More } from "./more.tsx";
import { percent, rounded } from "./numbers.ts";
import { type Case, isSmall, kindOf, namesOf, ofImages, titleOf } from "./reading.ts";
import { Similar } from "./similar.tsx";
import { Table } from "./values.tsx";

/** The panel beside the pictures: what is known of the case in words and numbers; `children` come before the numbers. */
export function Side({ one, status, target, children }: { one: Case; status: string; target: number; children?: ComponentChildren }) {
  const isExplained = status === "explained";
  return (
    <aside class="side" aria-label="About the case">
      {isExplained && (
        <>
          <Flags one={one} />
          <Words one={one} />
          <Classes one={one} />
          {children}
          <Metrics one={one} target={target} />
          <Similar one={one} />
          <Kind one={one} target={target} title="Uncertainty" kinds={["uncertainty"]} />
          <Kind one={one} target={target} title="Record" names={["record"]} kinds={["record"]} />
          <Kind one={one} target={target} title="Shares" kinds={["share"]} />
        </>
      )}
      <Kind one={one} target={target} title="Covariates" names={["covariate_value"]} />
      {isExplained && <More one={one} target={target} />}
    </aside>
  );
}

function Flags({ one }: { one: Case }) {
  const flags = useLoaded(() => readFlags(one), [one]);
  if (flags instanceof Error) return <p role="alert">{flags.message}</p>;
  if (!flags?.length) return null;
  return <ul class="flags" aria-label="Flags">{flags.map((flag) => <li key={flag}>{flag}</li>)}</ul>;
}

function Words({ one }: { one: Case }) {
  const texts = ofImages(one.output).filter((variable) => kindOf(variable) === "text");
  const words = useLoaded(() => Promise.all(texts.map(({ name }) => one.texts(name))), [one]);
  return <>{(loaded(words) ?? []).map(({ data }, at) => data[0] && <p class="words" key={texts[at]!.name}>{data[0]}</p>)}</>;
}

function Classes({ one }: { one: Case }) {
  const variable = one.output.variables.get("probability") ?? one.output.variables.get("logit");
  const found = useLoaded(async () => variable && (await one.numbers(variable.name)).data, [one]);
  if (found instanceof Error) return <p role="alert">{found.message}</p>;
  if (!found || !variable) return null;
  const isShare = variable.name === "probability";
  const names = namesOf(one.output, "class");
  return (
    <section>
      <h2>{isShare ? "Probability" : "Model output"}</h2>
      <dl class="bars" title={titleOf(variable)}>
        {names.map((name, at) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              {isShare && <span class="bar-track" aria-hidden="true"><span style={{ width: `${100 * (found[at] || 0)}%` }} /></span>}
              <span>{isShare ? percent(found[at]!) : rounded(found[at]!, 4)}</span>
            </dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

/** The small arrays of some kinds, each as a table. */
function Kind({ one, target, title, kinds = [], names = [] }: { one: Case; target: number; title: string; kinds?: string[]; names?: string[] }) {
  const own = ofImages(one.output).filter((variable) => (kinds.includes(kindOf(variable)) || names.includes(variable.name)) && isSmall(variable));
  if (!own.length) return null;
  return (
    <section>
      <h2>{title}</h2>
      {own.map((variable) => <Table key={variable.name} one={one} variable={variable} target={target} />)}
    </section>
  );
}
