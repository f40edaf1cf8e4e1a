import { Refusal } from "./errors.ts";

/** Whether the server has answered by a part of a file; if so, a whole one comes since the browser's copy of a part is of an older file. */
let servesParts = false;

/** Says that a file is not the one that the page began to read. */
export function changed(url: string | URL): Refusal {
  return new Refusal("A file was written anew", `${url} has changed since the page was opened. Load the page again.`);
}

/** Fetches as a reader of Zarr and Parquet needs it: a part of a file is a part, and what a server cannot do is said in words. */
export async function fetchPart(request: Request): Promise<Response> {
  const answer = await answerTo(request);
  if (answer.ok && answer.headers.get("Content-Type")?.startsWith("text/html")) {
    throw new Refusal(
      "The server answers with a page",
      `${request.url} should be data, and a web page came: sign in to the server if it asks for it, or have it answer 404 for files that it does not have.`,
    );
  }
  servesParts ||= answer.status === 206;
  if (request.headers.has("Range") && answer.status === 200) {
    if (servesParts) throw changed(request.url);
    throw new Refusal(
      "The server does not serve parts of files",
      "The store is read in parts, and the server answered a request with Range by the whole file. Serve the output by `cohortlens view`, a bucket, or a web server that knows Range.",
    );
  }
  return answer;
}

async function answerTo(request: Request): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(request);
  } catch {
    throw new Refusal(
      navigator.onLine ? "The server does not answer" : "This device is offline",
      `${request.url} could not be fetched. Is the server still running? If it sends requests on to another address, that one has to allow this page by CORS, and the page allows its own server alone: serve page and store from one address. Then load the page again.`,
    );
  }
  if (answer.status === 403) return new Response(null, { status: 404 }); // a bucket that does not list says so of what is not there
  if (answer.status === 401) {
    throw new Refusal("The server does not let you in", `${request.url} was answered by 401: sign in, or open the whole address that \`cohortlens view\` printed.`);
  }
  if (answer.status === 416) {
    throw new Refusal("The store is damaged", `${request.url} is shorter than it should be: run \`cohortlens verify --repair OUTPUT\`.`);
  }
  if (answer.status === 429 || answer.status >= 500) {
    throw new Refusal("The server failed", `${request.url} was answered by ${answer.status}: wait a moment, and load the page again.`);
  }
  return answer;
}
