import { Text } from "../cohort/text.tsx";
import type { Rating } from "./rating.ts";

/** Ratings that the same rater has given before: all are kept. */
export function Earlier({ ratings }: { ratings: readonly Rating[] }) {
  if (!ratings.length) return null;
  return (
    <div class="earlier" role="status">
      <p>You have rated this case before. What you save now is kept beside it.</p>
      <ul>{ratings.map((rating) => <li key={rating.id}>{when(rating.time)}: <Text of={summary(rating)} /></li>)}</ul>
    </div>
  );
}

function summary({ prediction, explanation, helps, region, comment }: Rating): string {
  const said = [
    prediction && `prediction: ${prediction}`,
    explanation && `maps: ${explanation}`,
    helps && `helps: ${helps.join(", ") || "none"}`,
    region && (region.runs.length ? "a region" : "no finding"),
    comment && "a comment",
  ];
  return said.filter(Boolean).join("; ") || "nothing said";
}

function when(time: string): string {
  return new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
