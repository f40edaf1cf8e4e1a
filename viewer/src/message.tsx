import { inWords } from "./output/errors.ts";

/** What the page says in place of a view that it cannot show. */
export function Message({ error }: { error: Error }) {
  return (
    <main class="message">
      <div role="alert">
        <h1>{inWords(error).title}</h1>
        <p>{error.message}</p>
      </div>
      <p>The <a href="../report/index.html">report</a> needs no store, if the run was finished.</p>
    </main>
  );
}
