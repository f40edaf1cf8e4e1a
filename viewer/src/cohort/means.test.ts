import assert from "node:assert/strict";
import { test } from "node:test";
import type { Output, Variable } from "../output/output.ts";
import { meansOf } from "./means.ts";

test("means are those over images and targets, without what is not defined", async () => {
  const of: Variable = { name: "share", dims: ["image_id", "target", "explainer", "region"], shape: [2, 1, 2, 2], attributes: {} };
  const data = Float32Array.of(1, 2, 3, 4, 5, Number.NaN, 7, Number.NaN);
  const output = { read: () => Promise.resolve({ data, dims: of.dims, shape: of.shape }) } as unknown as Output;
  assert.deepEqual([...(await meansOf(output, of))], [3, 2, 5, 4]);
});
