/** Writes a number with three places, or with three digits where three places would not show it. */
export function written(value: number): string {
  if (Number.isNaN(value)) return "undefined";
  if (Number.isInteger(value)) return minus(value.toString());
  const size = Math.abs(value);
  return minus(size < 0.001 || size >= 1e5 ? value.toExponential(2) : withoutNegativeZero(value.toFixed(3)));
}

/** Writes a mean with its interval, as the report does. */
export function withInterval(mean: number, low: number, high: number): string {
  if (Number.isNaN(mean)) return "undefined";
  const [at, from, to] = [mean, low, high].map((value) => minus(withoutNegativeZero(value.toFixed(3))));
  return `${at} (${Number.isNaN(low) ? "no interval" : `${from} to ${to}`})`;
}

function withoutNegativeZero(text: string): string {
  return /^-0(\.0*)?$/.test(text) ? text.slice(1) : text;
}

function minus(text: string): string {
  return text.replace(/^-/, "−");
}
