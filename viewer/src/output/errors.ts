/** What the page cannot do with an output: a title in a few words, and a message that says what to do. */
export class Refusal extends Error {
  readonly title: string;

  constructor(title: string, message: string) {
    super(message);
    this.title = title;
  }
}

/** An error whose message a reader can act on; of a bug in the page it says that it is one. */
export function inWords(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  const said = error instanceof Error ? error.message : String(error);
  return new Refusal("The viewer failed", `It should not: please report this with the steps that led here. It said: ${said}`);
}
