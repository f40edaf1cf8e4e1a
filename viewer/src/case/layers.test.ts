import assert from "node:assert/strict";
import { test } from "node:test";
import { showing } from "./layers.ts";

test("a scale that was found without a negative value is signed where a map has one", () => {
  const scale = { limit: 2, signed: false };
  assert.deepEqual(showing(scale, Float32Array.of(0, 1)), scale);
  assert.deepEqual(showing(scale, Float32Array.of(0, -1)), { limit: 2, signed: true });
});
