import assert from "node:assert/strict";
import { test } from "node:test";
import { asCsv, quoted } from "./csv.ts";
import type { Column, Listing, Whole } from "./listing.ts";

const columns: Column[] = [
  { name: "id", title: "image", about: "", kind: "word" },
  { name: "right", title: "right", about: "", kind: "truth" },
  { name: "gini", title: "gini", about: "", kind: "number" },
  { name: "flags", title: "flags", about: "", kind: "flags", flags: { blank: 1, no_source: 4 } },
];
const wholes: Whole[] = [
  { values: Int32Array.of(0, 1), words: ['a, "b"', "=1+1"] },
  { values: Float32Array.of(1, NaN), words: [] },
  { values: Float32Array.of(NaN, -0.5), words: [] },
  { values: Int32Array.of(5, 0), words: [] },
];

test("a list as comma-separated values, in its order", async () => {
  const listing = { whole: async (column: Column) => wholes[columns.indexOf(column)]! } as Listing;
  const order = { count: 2, rowAt: (place: number) => 1 - place, placeOf: (row: number) => 1 - row, unread: [] };
  const text = await (await asCsv(listing, order, columns)).text();
  assert.equal(text, 'id,right,gini,flags\r\n\'=1+1,,-0.5,\r\n"a, ""b""",true,,blank | no source\r\n');
});

test("a text that a spreadsheet would compute is a text", () => {
  assert.deepEqual(["=A1", "+1", "-1", "@x", "plain"].map(quoted), ["'=A1", "'+1", "'-1", "'@x", "plain"]);
});
