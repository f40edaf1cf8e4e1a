const KEY = "cohortlens-rater";

/** The pseudonym that was used last on this device; empty where the browser keeps nothing. */
export function rememberedRater(): string {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function rememberRater(rater: string): void {
  try {
    if (rater) localStorage.setItem(KEY, rater);
    else localStorage.removeItem(KEY);
  } catch {
    // a browser that keeps nothing asks again
  }
}
