import { Refusal } from "../output/errors.ts";
import { fetchFile } from "../output/fetching.ts";
import type { Output } from "../output/output.ts";
import type { Runs } from "./region.ts";

export type Verdict = "agree" | "disagree" | "unsure";
export const VERDICTS: readonly Verdict[] = ["agree", "disagree", "unsure"];

/** The longest pseudonym and comment that a rating takes. */
export const LONGEST_RATER = 100;
export const LONGEST_COMMENT = 4000;

/** What a reader thinks of one image; `docs/ratings.md` says what each field is. */
export interface Rating {
  readonly version: 1;
  readonly id: string;
  readonly image_id: string;
  readonly seen: Seen;
  readonly rater: string;
  readonly time: string;
  readonly target: string | null;
  readonly prediction: Verdict | null;
  readonly explanation: Verdict | null;
  readonly shown: readonly string[];
  readonly helps: readonly string[] | null;
  readonly region: { readonly shape: readonly number[]; readonly runs: Runs } | null;
  readonly confidence: number | null;
  readonly comment: string;
}

interface Seen {
  readonly shard: number;
  readonly row: string;
  readonly parts: readonly string[];
}

/** What became of a rating that was sent: it is there, or it is refused with the reason, or nobody takes ratings. */
export type Outcome = { readonly saved: true } | { readonly saved: false; readonly refused: boolean; readonly why: string };

const NOBODY = [403, 404, 405, 501];

export function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Names what is looked at by the digests of the commit that delivered it, which are the same on every copy of the output. */
export async function seenAt(output: Output, row: number): Promise<Seen> {
  const shards = (await output.read("shard")).data as Int32Array;
  const shard = shards[row]!;
  const url = new URL(`commits/${String(shard).padStart(6, "0")}.json`, output.address);
  const answer = await fetchFile(new Request(url));
  if (!answer.ok) throw new Refusal("No commit", `The record of what was stored of this image, ${url}, is not there, or cannot be read: a rating has to name it.`);
  const commit = (await answer.json()) as { rows: string[]; parts: Record<string, { digest: string }> };
  return { shard, row: commit.rows[row - shards.indexOf(shard)]!, parts: Object.values(commit.parts).map(({ digest }) => digest) };
}

/** Sends a rating to `cohortlens view`; from a bucket, or a server that only reads, there is nobody who takes it. */
export async function send(output: Output, rating: Rating): Promise<Outcome> {
  let answer: Response;
  try {
    const headers = { "content-type": "application/json" };
    answer = await fetch(ratingsOf(output), { method: "POST", headers, body: JSON.stringify(rating) });
  } catch {
    return { saved: false, refused: false, why: "the server does not answer" };
  }
  if (answer.status === 201) return { saved: true };
  const isText = answer.headers.get("content-type")?.startsWith("text/plain");
  const said = isText ? (await answer.text()).slice(0, 500) : "";
  const refused = !NOBODY.includes(answer.status) && answer.status < 500;
  return { saved: false, refused, why: said ? `${answer.status}: ${said}` : `the server answered ${answer.status}` };
}

/** The ratings that a rater has given to an image before, the latest last; none where nobody keeps them. */
export async function earlierRatings(output: Output, image: string, rater: string): Promise<Rating[]> {
  if (!rater) return [];
  const url = ratingsOf(output);
  url.search = new URLSearchParams({ image_id: image, rater }).toString();
  try {
    const answer = await fetch(url);
    return answer.ok ? ((await answer.json()) as Rating[]) : [];
  } catch {
    return [];
  }
}

function ratingsOf(output: Output): URL {
  return new URL("ratings", output.address);
}
