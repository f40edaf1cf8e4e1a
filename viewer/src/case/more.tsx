import { useState } from "preact/hooks";
import { type Case, isSmall, kindOf, ofImages, titleOf } from "./reading.ts";
import { namesCases } from "./similar.tsx";
import { Table } from "./values.tsx";

const KINDS_ELSEWHERE = ["metric", "uncertainty", "record", "share", "flags", "text"];
const NAMES_ELSEWHERE = ["label", "status", "present", "probability", "record", "covariate_value", "affine"];

/** Everything else that the store has of each image and that is small, read when it is asked for. */
export function More({ one, target }: { one: Case; target: number }) {
  const [isOpen, setOpen] = useState(false);
  const others = ofImages(one.output).filter(
    (variable) => isSmall(variable) && !KINDS_ELSEWHERE.includes(kindOf(variable)) && !NAMES_ELSEWHERE.includes(variable.name) && !namesCases(variable),
  );
  return (
    <details class="more" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>More of the store ({others.length})</summary>
      {isOpen && others.map((variable) => (
        <details key={variable.name} open={variable.shape.length < 3}>
          <summary>{variable.name}<span class="quiet"> {titleOf(variable)}</span></summary>
          <Table one={one} variable={variable} target={target} />
        </details>
      ))}
    </details>
  );
}
