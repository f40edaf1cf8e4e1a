import { decompress } from "fzstd";
import { decodeLz4 } from "./lz4.ts";

const HEADER = 16;
const VERSION = 2;
const SHUFFLED = 0x1;
const COPIED = 0x2;
const BIT_SHUFFLED = 0x4;
const NOT_SPLIT = 0x10;
const MOST_SPLITS = 16;
const LEAST_SPLIT = 128;
const DECODERS: Readonly<Record<number, (bytes: Uint8Array, length: number) => Uint8Array>> = { 1: decodeLz4, 4: (bytes) => decompress(bytes) };

/**
 * Decodes a buffer of Blosc 1 whose blocks are LZ4 or zstd, after a shuffle of bits or bytes or none: what the store is
 * written with.
 *
 * The WebAssembly of numcodecs makes functions of strings, which the page's policy forbids.
 * Source: README_CHUNK_FORMAT.rst of c-blosc.
 */
export function decodeBlosc(source: Uint8Array): Uint8Array {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  if (view.getUint8(0) !== VERSION || view.getUint32(12, true) !== source.length) throw new Error("the head of a chunk is damaged");
  const flags = view.getUint8(2);
  const typeSize = view.getUint8(3);
  const size = view.getUint32(4, true);
  const blockSize = view.getUint32(8, true);
  if (flags & COPIED) return whole(source.slice(HEADER), size);
  const decompressed = DECODERS[flags >> 5];
  if (!decompressed) throw new Error(`Blosc flags ${flags}: neither LZ4 nor zstd`);
  const decoded = new Uint8Array(size);

  const joined = (start: number, length: number, splits: number) => {
    const bytes = new Uint8Array(length);
    const part = length / splits;
    let offset = start;
    for (let split = 0; split < splits; split++) {
      const packed = view.getUint32(offset, true);
      const own = source.subarray(offset + 4, offset + 4 + packed);
      bytes.set(whole(packed === part ? own : decompressed(own, part), part), split * part);
      offset += 4 + packed;
    }
    return bytes;
  };

  for (let block = 0; block * blockSize < size; block++) {
    const length = Math.min(blockSize, size - block * blockSize);
    const isSplit = !(flags & NOT_SPLIT) && typeSize <= MOST_SPLITS && blockSize / typeSize >= LEAST_SPLIT && length === blockSize;
    const bytes = joined(view.getUint32(HEADER + 4 * block, true), length, isSplit ? typeSize : 1);
    decoded.set(ordered(bytes, flags, typeSize), block * blockSize);
  }
  return decoded;
}

function whole(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length !== length) throw new Error(`a chunk has ${bytes.length} bytes in the place of ${length}`);
  return bytes;
}

function ordered(bytes: Uint8Array, flags: number, typeSize: number): Uint8Array {
  if (flags & BIT_SHUFFLED) return unshuffleBits(bytes, typeSize);
  return flags & SHUFFLED ? unshuffle(bytes, typeSize) : bytes;
}

/** Puts the bytes of each element together again, which lie in planes of all first bytes, all second and so on. */
function unshuffle(planes: Uint8Array, typeSize: number): Uint8Array {
  const count = Math.floor(planes.length / typeSize);
  const elements = new Uint8Array(planes.length);
  for (let byte = 0; byte < typeSize; byte++) {
    for (let element = 0; element < count; element++) {
      elements[element * typeSize + byte] = planes[byte * count + element]!;
    }
  }
  elements.set(planes.subarray(count * typeSize), count * typeSize);
  return elements;
}

/**
 * Puts the bits of each element together again, which lie in planes of all lowest bits, all second and so on; c-blosc
 * leaves a block as it is whose elements are no multiple of eight.
 */
function unshuffleBits(planes: Uint8Array, typeSize: number): Uint8Array {
  const count = Math.floor(planes.length / typeSize);
  if (count % 8) return planes;
  const elements = new Uint8Array(planes.length);
  const plane = count / 8;
  for (let byte = 0; byte < typeSize; byte++) {
    const first = 8 * byte * plane;
    const four = (bit: number, group: number) =>
      (planes[first + (bit + 3) * plane + group]! << 24) |
      (planes[first + (bit + 2) * plane + group]! << 16) |
      (planes[first + (bit + 1) * plane + group]! << 8) |
      planes[first + bit * plane + group]!;
    for (let group = 0; group < plane; group++) {
      let [high, low] = [four(4, group), four(0, group)];
      if (!(high | low)) continue;
      [high, low] = transposed(high, low);
      const start = 8 * group * typeSize + byte;
      for (let element = 0; element < 4; element++) {
        elements[start + element * typeSize] = low >>> (8 * element);
        elements[start + (element + 4) * typeSize] = high >>> (8 * element);
      }
    }
  }
  elements.set(planes.subarray(count * typeSize), count * typeSize);
  return elements;
}

/** Transposes eight rows of eight bits. Source: Warren, Hacker's Delight, 7-3. */
function transposed(high: number, low: number): [number, number] {
  for (const [mask, by] of [[0x00aa00aa, 7], [0x0000cccc, 14]] as const) {
    const above = (high ^ (high >>> by)) & mask;
    const below = (low ^ (low >>> by)) & mask;
    high ^= above ^ (above << by);
    low ^= below ^ (below << by);
  }
  return [(high & 0xf0f0f0f0) | ((low >>> 4) & 0x0f0f0f0f), ((high << 4) & 0xf0f0f0f0) | (low & 0x0f0f0f0f)];
}
