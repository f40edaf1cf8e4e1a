/** A number as a reader can take it in: few digits, and a minus sign that is one. */
export function rounded(value: number, digits = 3): string {
  if (Number.isNaN(value)) return "none";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

export function percent(share: number): string {
  return Number.isNaN(share) ? "none" : `${(100 * share).toFixed(1)} %`;
}
