import assert from "node:assert/strict";
import { test } from "node:test";
import Blosc from "numcodecs/blosc";
import { decodeBlosc } from "./blosc.ts";
import { decodeLz4 } from "./lz4.ts";

const elements = [1, 3, 1000, 1003, 30_000];

for (const cname of ["zstd", "lz4"]) {
  for (const { shuffle, level } of [{ shuffle: 0, level: 1 }, { shuffle: 1, level: 1 }, { shuffle: 1, level: 9 }, { shuffle: 2, level: 5 }]) {
    for (const count of elements) {
      test(`${cname}: ${count} numbers of four bytes, shuffle ${shuffle}, level ${level}`, async () => {
        const numbers = Float32Array.from({ length: count }, (_, at) => Math.round(50 * Math.sin(at / 9)) * (at % 7 > 2 ? 1 : 0.37));
        const bytes = new Uint8Array(numbers.buffer);
        const encoded = await Blosc.fromConfig({ blocksize: 0, clevel: level, cname, id: "blosc", shuffle }).encode(bytes);
        assert.deepEqual(decodeBlosc(encoded), bytes);
      });
    }
  }

  test(`${cname}: noise, which is copied`, async () => {
    const bytes = Uint8Array.from({ length: 5000 }, (_, at) => (Math.imul(at, 2654435761) >>> 13) & 255);
    const encoded = await Blosc.fromConfig({ blocksize: 0, clevel: 1, cname, id: "blosc", shuffle: 1 }).encode(bytes);
    assert.deepEqual(decodeBlosc(encoded), bytes);
  });
}

test("a chunk that is cut short, or whose head is overwritten, is refused", async () => {
  const bytes = Uint8Array.from({ length: 5000 }, (_, at) => at % 7);
  const encoded = await Blosc.fromConfig({ blocksize: 0, clevel: 1, cname: "zstd", id: "blosc", shuffle: 1 }).encode(bytes);
  assert.throws(() => decodeBlosc(encoded.slice(0, -3)), /head of a chunk is damaged/);
  assert.throws(() => decodeBlosc(encoded.map((byte, at) => (at < 16 ? 255 : byte))), /head of a chunk is damaged/);
  assert.throws(() => decodeBlosc(encoded.map((byte, at) => (at < 24 ? byte : 0))));
});

test("a block of LZ4 that is cut short, or points to before its start, is refused", () => {
  assert.throws(() => decodeLz4(Uint8Array.of(0xf0), 100), /cut short/);
  assert.throws(() => decodeLz4(Uint8Array.of(0x30, 1, 2), 100), /damaged/);
  assert.throws(() => decodeLz4(Uint8Array.of(0x10, 7, 2, 0, 0), 100), /damaged/);
  assert.deepEqual(decodeLz4(Uint8Array.of(0x12, 7, 1, 0, 0x10, 8), 100), Uint8Array.of(7, 7, 7, 7, 7, 7, 7, 8));
});
