import assert from "node:assert/strict";
import { test } from "node:test";
import { withInterval, written } from "./numbers.ts";

for (const [value, text] of [
  [0, "0"], [-1, "−1"], [0.5, "0.500"], [-0.25, "−0.250"], [0.00012, "1.20e-4"], [Number.NaN, "undefined"], [1234567, "1234567"],
] as const) {
  test(`${value} is written ${text}`, () => assert.equal(written(value), text));
}

for (const [ends, text] of [
  [[0.5, 0.4, 0.6], "0.500 (0.400 to 0.600)"],
  [[0.1, -0.1, 0.3], "0.100 (−0.100 to 0.300)"],
  [[-0.0001, -0.0002, 0], "0.000 (0.000 to 0.000)"],
  [[0.5, Number.NaN, Number.NaN], "0.500 (no interval)"],
  [[Number.NaN, Number.NaN, Number.NaN], "undefined"],
] as const) {
  test(`an interval is written ${text}`, () => assert.equal(withInterval(ends[0], ends[1], ends[2]), text));
}
