import { Refusal } from "./errors.ts";

/** Whether the server has answered by a part of a file; if so, a whole one comes since the browser's copy of a part is of an older file. */
let servesParts = false;

/** By address, the version of a file of which parts were read: those of two versions do not belong together. */
const versions = new Map<string, string>();

const forbidden = new Set<string>();

/** Says that a file is not the one that the page began to read. */
export function changed(url: string | URL): Refusal {
  return new Refusal("A file was written anew", `${url} has changed since the page was opened. Load the page again.`);
}

/** Tells whether a file was answered by 403: it is kept back, or it is not there and the server does not say so. */
export function isForbidden(url: URL): boolean {
  return forbidden.has(url.href);
}

/**
 * Fetches a file or a part of it, as a reader of Zarr and Parquet needs it: a part is a part, of the file that other parts
 * were of, and what a server cannot do is said in words.
 *
 * The browser asks whether its own copy is still the file: where a server says nothing of it, it would not, for days.
 */
export async function fetchFile(request: Request): Promise<Response> {
  const answer = await answerTo(request);
  if (answer.ok && answer.headers.get("Content-Type")?.startsWith("text/html")) {
    throw new Refusal(
      "The server answers with a page",
      `${request.url} should be data, and a web page came: sign in to the server if it asks for it, or have it answer 404 for files that it does not have.`,
    );
  }
  if (request.headers.has("Range") && answer.status === 200) {
    if (servesParts) throw changed(request.url);
    throw new Refusal(
      "The server does not serve parts of files",
      "The store is read in parts, and the server answered a request with Range by the whole file. Serve the output by `cohortlens view`, a bucket, or a web server that knows Range.",
    );
  }
  if (answer.status === 206) {
    servesParts = true;
    const version = versionOf(answer);
    if ((versions.get(request.url) ?? version) !== version) throw changed(request.url);
    versions.set(request.url, version);
  }
  return answer;
}

/** Tells one version of a file from another: by what the server says of it, and by its size. */
function versionOf({ headers }: Response): string {
  const size = headers.get("Content-Range")?.split("/")[1];
  return [headers.get("ETag") ?? headers.get("Last-Modified"), size].join();
}

async function answerTo(request: Request): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(request, { cache: "no-cache" });
  } catch {
    throw new Refusal(
      navigator.onLine ? "The server does not answer" : "This device is offline",
      `${request.url} could not be fetched. Is the server still running? If it sends requests on to another address, that one has to allow this page by CORS, and the page allows its own server alone: serve page and store from one address. Then load the page again.`,
    );
  }
  if (answer.status === 403) { // a bucket that does not list says so of what is not there
    forbidden.add(request.url);
    return new Response(null, { status: 404 });
  }
  if (answer.status === 401) {
    throw new Refusal("The server does not let you in", `${request.url} was answered by 401: sign in, or open the whole address that \`cohortlens view\` printed.`);
  }
  if (answer.status === 416) throw new Refusal("The store is damaged", tooShort(request));
  if (answer.status === 429 || answer.status >= 500) {
    throw new Refusal("The server failed", `${request.url} was answered by ${answer.status}: wait a moment, and load the page again.`);
  }
  return answer;
}

function tooShort({ url, headers }: Request): string {
  const repair = "run `cohortlens verify --repair OUTPUT`";
  if (!headers.get("Range")?.startsWith("bytes=-")) return `${url} is shorter than it should be: ${repair}.`;
  return `The end of ${url} was answered by 416. Either the file is shorter than it should be: ${repair}; or the server does not count a Range from the end of a file: serve the output by \`cohortlens view\`, or a bucket that does.`;
}
