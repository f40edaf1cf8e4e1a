import { useState } from "preact/hooks";
import type { Grid } from "../case/geometry.ts";
import { loaded, useLoaded } from "../loading.tsx";
import { inWords } from "../output/errors.ts";
import type { Numbers, Output } from "../output/output.ts";
import type { Drawing } from "./drawing.tsx";
import { Earlier } from "./earlier.tsx";
import { Helps, Verdicts } from "./questions.tsx";
import { rememberedRater, rememberRater } from "./rater.ts";
import { earlierRatings, LONGEST_COMMENT, LONGEST_RATER, newId, type Rating, seenAt, send, type Verdict } from "./rating.ts";
import { runsOf } from "./region.ts";
import { RegionTools } from "./region_tools.tsx";
import { Saved, type Sent } from "./saved.tsx";

/** A case as the rater sees it: its row, the maps on the screen, and the region that is drawn over them. */
export interface Rated {
  readonly output: Output;
  readonly row: number;
  readonly image: string;
  readonly target: string | null;
  /** The explainers whose maps are shown. */
  readonly shown: readonly string[];
  readonly grid: Grid;
  readonly drawing: Drawing;
  /** The reference region of the store, if there is one. */
  readonly mask?: Numbers | undefined;
  /** Reads the map of an explainer, in C order over the grid. */
  map(explainer: string): Promise<Numbers>;
}

interface Answers {
  readonly prediction: Verdict | null;
  readonly explanation: Verdict | null;
  readonly helps: readonly string[] | null;
  readonly confidence: number | null;
  readonly comment: string;
}

const NOTHING: Answers = { prediction: null, explanation: null, helps: null, confidence: null, comment: "" };

/** The form in which a reader rates a case; it is saved beside the store, or downloaded where nobody takes it. */
export function RatingForm(rated: Rated) {
  const [answers, setAnswers] = useState(NOTHING);
  const [rater, setRater] = useState(rememberedRater);
  const [asked, setAsked] = useState(rater);
  const [saving, setSaving] = useState(false);
  const [sent, setSent] = useState<Sent | Error>();
  const earlier = useLoaded(() => earlierRatings(rated.output, rated.image, asked), [rated.image, asked, sent]);
  const change = (changed: Partial<Answers>) => setAnswers((before) => ({ ...before, ...changed }));
  const save = async () => {
    setSaving(true);
    rememberRater(rater.trim());
    const sending = ratingOf(rated, answers, rater.trim()).then(async (rating) => ({ rating, outcome: await send(rated.output, rating) }));
    setSent(await sending.catch(inWords));
    setSaving(false);
  };
  return (
    <>
      <Earlier ratings={loaded(earlier) ?? []} />
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void save();
        }}
      >
        <label>
          Your pseudonym
          <input value={rater} maxLength={LONGEST_RATER} autocomplete="off" onInput={(event) => setRater(event.currentTarget.value)} onChange={() => setAsked(rater.trim())} />
          <small>no name: it is kept on this device, and in the rating</small>
        </label>
        <Verdicts about="The prediction" chosen={answers.prediction} choose={(prediction) => change({ prediction })} />
        <Verdicts about="What the maps show" chosen={answers.explanation} choose={(explanation) => change({ explanation })} />
        <Helps shown={rated.shown} helps={answers.helps} choose={(helps) => change({ helps })} />
        <RegionTools {...rated} />
        <label>
          How sure you are
          <select
            value={answers.confidence ?? ""}
            onChange={(event) => change({ confidence: event.currentTarget.value ? Number(event.currentTarget.value) : null })}
          >
            <option value="">not said</option>
            {[0, 0.25, 0.5, 0.75, 1].map((share) => <option key={share} value={share}>{100 * share} %</option>)}
          </select>
        </label>
        <label>
          Comment
          <textarea rows={3} maxLength={LONGEST_COMMENT} value={answers.comment} onInput={(event) => change({ comment: event.currentTarget.value })} />
          <small>write nothing that names a patient</small>
        </label>
        <button type="submit" disabled={saving}>Save the rating</button>
        <Saved sent={sent} />
      </form>
    </>
  );
}

async function ratingOf({ output, row, image, target, shown, grid, drawing }: Rated, answers: Answers, rater: string): Promise<Rating> {
  const { mask } = drawing;
  return {
    version: 1,
    id: newId(),
    image_id: image,
    seen: await seenAt(output, row),
    rater,
    time: new Date().toISOString(),
    target,
    shown,
    ...answers,
    helps: answers.helps?.filter((name) => shown.includes(name)) ?? null,
    region: mask ? { shape: grid.sides, runs: runsOf(mask) } : null,
  };
}
