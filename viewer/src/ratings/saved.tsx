import { useEffect, useState } from "preact/hooks";
import type { Outcome, Rating } from "./rating.ts";

export interface Sent {
  readonly rating: Rating;
  readonly outcome: Outcome;
}

/** What became of the rating that was sent, and its file where nobody took it. */
export function Saved({ sent }: { sent: Sent | Error | undefined }) {
  return (
    <div role="status" class="saved">
      {sent instanceof Error ? <p>The rating could not be made: {sent.message}</p> : sent && <Told {...sent} />}
    </div>
  );
}

function Told({ rating, outcome }: Sent) {
  if (outcome.saved) return <p>The rating is saved.</p>;
  if (outcome.refused) return <p>The rating was not taken: {outcome.why}</p>;
  return (
    <>
      <p>
        Nobody takes ratings here ({outcome.why}). Keep the file, and send it to whoever runs the cohort:{" "}
        <code>cohortlens ratings OUTPUT --import FOLDER</code> brings it in.
      </p>
      <Download rating={rating} />
    </>
  );
}

function Download({ rating }: { rating: Rating }) {
  const [url, setUrl] = useState<string>();
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([JSON.stringify(rating)], { type: "application/json" }));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [rating]);
  return <a href={url} download={`${rating.id}.json`}>Download the rating</a>;
}
