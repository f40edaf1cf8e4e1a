import { fetchFile } from "./fetching.ts";
import type { Output } from "./output.ts";

interface Shards {
  readonly size: number;
  readonly digests: readonly string[];
}

/**
 * Reads the status of an image from the commit of its shard, which is there before the run ends and enters it into the store.
 *
 * It is undefined where nothing of the plan has been delivered, or the browser cannot tell.
 */
export async function deliveredStatus({ address }: Output, row: number): Promise<number | undefined> {
  const plan = await readJson<{ shards: Shards }>(new URL("plan.json", address));
  if (!plan) return undefined;
  const { size, digests } = plan.shards;
  const index = Math.floor(row / size);
  const commit = await readJson<{ rows: readonly string[]; status: readonly number[] }>(new URL(`commits/${String(index).padStart(6, "0")}.json`, address));
  return commit && (await digestOf(commit.rows)) === digests[index] ? commit.status[row % size] : undefined;
}

async function readJson<Content>(url: URL): Promise<Content | undefined> {
  const answer = await fetchFile(new Request(url)).catch(() => undefined);
  return answer?.ok ? ((await answer.json().catch(() => undefined)) as Content | undefined) : undefined;
}

/** Digests rows as the plan does; browsers compute no digests for pages that came without TLS from another machine. */
async function digestOf(rows: readonly string[]): Promise<string | undefined> {
  const text = `[${rows.map((row) => JSON.stringify(row)).join(", ")}]`;
  const digest = await crypto.subtle?.digest("SHA-256", new TextEncoder().encode(text));
  return digest && [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
