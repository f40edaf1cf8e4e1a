/** The grey values that are shown from black to white: their centre and width, as a radiologist names them. */
export interface Window {
  readonly centre: number;
  readonly width: number;
}

/** A window by a name, made of the range of the image. */
export interface Preset {
  readonly name: string;
  readonly window: Window;
}

const SHARES: readonly (readonly [string, number, number])[] = [
  ["0.5 to 99.5 % of the values", 0.005, 0.995],
  ["all values", 0, 1],
  ["5 to 95 %", 0.05, 0.95],
  ["dark half", 0, 0.5],
  ["bright half", 0.5, 1],
];

/** Makes windows of an image's values, of which the first is the one of the report; NaN and infinity are left out. */
export function presetsOf(values: ArrayLike<number>): Preset[] {
  const [least, most] = rangeOf(values);
  const quantile = quantilesOf(values);
  const at = (share: number) => (share === 0 ? least : share === 1 ? most : quantile(share));
  return SHARES.map(([name, low, high]) => ({ name, window: between(at(low), at(high)) }));
}

const LOOKED_AT = 2 ** 18;

/** Quantiles of finite values; of very many, those at places that are evenly apart. */
export function quantilesOf(values: ArrayLike<number>, of: (value: number) => number = (value) => value): (share: number) => number {
  const step = Math.ceil(values.length / LOOKED_AT) | 1; // an odd step meets every column
  const looked = Float32Array.from({ length: Math.ceil(values.length / step) }, (_, at) => of(values[at * step]!));
  const sorted = looked.filter(Number.isFinite).sort();
  return (share) => {
    const place = share * (sorted.length - 1);
    const low = sorted[Math.floor(place)] ?? 0;
    return low + (place % 1) * ((sorted[Math.ceil(place)] ?? low) - low);
  };
}

function rangeOf(values: ArrayLike<number>): [number, number] {
  let [least, most] = [Infinity, -Infinity];
  for (let at = 0; at < values.length; at++) {
    const value = values[at]!;
    if (!Number.isFinite(value)) continue;
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return least <= most ? [least, most] : [0, 1];
}

export function between(low: number, high: number): Window {
  return { centre: (low + high) / 2, width: high > low ? high - low : 1 };
}

/** Grey of a value, from 0 to 1. */
export function grey(value: number, { centre, width }: Window): number {
  return Number.isFinite(value) ? Math.min(Math.max((value - centre) / width + 0.5, 0), 1) : 0;
}
