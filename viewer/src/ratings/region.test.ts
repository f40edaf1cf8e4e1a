import assert from "node:assert/strict";
import { test } from "node:test";
import { gridOf, planesOf } from "../case/geometry.ts";
import { brush, maskOf, polygon, runsOf, strongest } from "./region.ts";

const grid = gridOf(["y", "x"], [6, 8]);
const [plane] = planesOf(grid);
const on = { grid, plane: plane!, slice: 0 };

function rows(mask: Uint8Array): string[] {
  return Array.from({ length: 6 }, (_, row) => [...mask.subarray(8 * row, 8 * row + 8)].map((value) => ".#"[value]).join(""));
}

for (const places of [[], [0], [47], [1, 2, 3, 9, 11, 12], [...Array(48).keys()]]) {
  test(`runs of places ${places.slice(0, 9)} are those of the mask`, () => {
    const mask = new Uint8Array(48);
    for (const place of places) mask[place] = 1;
    assert.deepEqual(maskOf(runsOf(mask), 48), mask);
    assert.equal(runsOf(mask).reduce((sum, [, length]) => sum + length, 0), places.length);
  });
}

test("a brush paints a disc along a stroke, and erases it again", () => {
  const mask = new Uint8Array(48);
  brush(mask, on, [[2, 1], [2, 6]], 1, 1);
  assert.deepEqual(rows(mask), ["........", ".######.", "########", ".######.", "........", "........"]);
  brush(mask, on, [[2, 1], [2, 6]], 1, 0);
  assert.equal(runsOf(mask).length, 0);
});

test("the smallest brush paints the voxel that it is in", () => {
  const mask = new Uint8Array(48);
  brush(mask, on, [[2.3, 4.4]], 0.5, 1);
  assert.deepEqual(runsOf(mask), [[20, 1]]);
});

test("a polygon paints voxels whose centre is inside", () => {
  const mask = new Uint8Array(48);
  polygon(mask, on, [[0.5, 0.5], [0.5, 5.5], [3.5, 5.5], [3.5, 0.5]], 1);
  assert.deepEqual(rows(mask), ["........", ".#####..", ".#####..", ".#####..", "........", "........"]);
});

test("a stroke in a volume stays in its slice and plane", () => {
  const volume = gridOf(["z", "y", "x"], [3, 4, 5]);
  const across = planesOf(volume).find(({ across }) => across === 1)!;
  const mask = new Uint8Array(60);
  brush(mask, { grid: volume, plane: across, slice: 2 }, [[1, 2, 3]], 0.5, 1);
  assert.deepEqual(runsOf(mask), [[1 * 20 + 2 * 5 + 3, 1]]);
});

test("the strongest places are those of the largest magnitude", () => {
  assert.deepEqual([...strongest([0, -5, 3, NaN, 1, 2], 0.4)], [0, 1, 1, 0, 0, 0]);
  assert.deepEqual([...strongest([0, 0, 0], 0.5)], [0, 0, 0]);
});
