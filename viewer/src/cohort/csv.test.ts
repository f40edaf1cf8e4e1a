import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCsv } from "./csv.ts";

for (const [text, rows] of [
  ["a,b\n1,2\n", [["a", "b"], ["1", "2"]]],
  ["a,b\r\n1,", [["a", "b"], ["1", ""]]],
  ['"x,""y""\nz",1\n', [['x,"y"\nz', "1"]]],
  [",,\n", [["", "", ""]]],
  ["", []],
] as const) {
  test(`CSV ${JSON.stringify(text)}`, () => assert.deepEqual(parseCsv(text), rows));
}
