/** Colours of attribution: of signed maps from blue by grey at zero to red, of others from black by red to yellow. */

export type Colour = readonly [number, number, number];

/** From -`limit`, or from 0 where nothing is below, to `limit`. */
export interface Scale {
  readonly limit: number;
  readonly signed: boolean;
}

/** Moreland (2009), doi:10.1007/978-3-642-10520-3_9: readers who see few colours tell its ends apart, and so does grey. */
const COOLWARM = parse(
  "3b4cc0 445acc 4e68d8 5875e1 6282ea 6c8ff1 779af7 82a6fb 8db0fe 98b9ff a3c2fe aec9fc b9d0f9 c3d5f4 ccd9ed d5dbe5 dddcdc " +
    "e5d8d1 ecd3c5 f1ccb8 f5c4ac f7ba9f f7b093 f6a586 f4987a f08b6e eb7d62 e46e56 dd5f4b d44e41 ca3b37 be242e b40426",
);

/** Smith and van der Walt (2015), matplotlib's inferno: its lightness rises evenly. */
const INFERNO = parse(
  "000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 57106e 64156e 71196e 7d1e6d 8a226a 972766 a32c61 b0315b bc3754 " +
    "c73e4c d24644 db503b e45a31 eb6628 f1731d f68013 f98e09 fb9d07 fcac11 fbbc21 f9cb35 f5db4c f2ea69 f3f68a fcffa4",
);

/** Colours of the labels of a mask, which are told apart from grey, from both scales and from one another (Okabe and Ito). */
const LABELS = ["#00e5a0", "#56b4e9", "#f0e442", "#cc79a7", "#e69f00", "#ffffff"];

export function colourOf(value: number, scale: Scale): Colour {
  const pixel = new Float32Array(3);
  blend(pixel, 0, value, scale, 1);
  return [pixel[0]!, pixel[1]!, pixel[2]!];
}

/** Lays the colour of a value over the three parts of a pixel that begin at an index, by a share of it; NaN has none. */
export function blend(pixels: Float32Array | Uint8ClampedArray, at: number, value: number, { limit, signed }: Scale, share: number): void {
  if (Number.isNaN(value)) return;
  const relative = Math.min(Math.max(value / limit, signed ? -1 : 0), 1);
  const stops = signed ? COOLWARM : INFERNO;
  const place = (signed ? (relative + 1) / 2 : relative) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const [from, to] = [stops[low]!, stops[low + 1]!];
  for (let part = 0; part < 3; part++) {
    const colour = from[part]! + (place - low) * (to[part]! - from[part]!);
    pixels[at + part] = (1 - share) * pixels[at + part]! + share * colour;
  }
}

/** The share of a map's colour that is laid over the image: none where the map is zero. */
export function strengthOf(value: number, { limit }: Scale): number {
  return Math.min(Math.abs(value) / limit, 1);
}

export function labelColour(label: number): string {
  return LABELS[(label - 1) % LABELS.length]!;
}

export function css([red, green, blue]: Colour): string {
  return `rgb(${Math.round(red)} ${Math.round(green)} ${Math.round(blue)})`;
}

function parse(stops: string): Colour[] {
  return stops.split(" ").map((hex) => [0, 2, 4].map((at) => Number.parseInt(hex.slice(at, at + 2), 16)) as unknown as Colour);
}
