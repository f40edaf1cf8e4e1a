import assert from "node:assert/strict";
import { test } from "node:test";
import { readFilters, rowsThatMeet, sayFilter, writeFilter } from "./filters.ts";
import type { Column, Whole } from "./listing.ts";

const columns: Column[] = [
  { name: "label", title: "label", about: "", kind: "word" },
  { name: "right", title: "right", about: "", kind: "truth" },
  { name: "gini/a:b", title: "gini: a:b", about: "", kind: "number" },
  { name: "flags", title: "flags", about: "", kind: "flags", flags: { blank: 1, no_source: 4 } },
];
const wholes = new Map<string, Whole>([
  ["label", { values: Int32Array.of(0, 1, 2, 0, 1), words: ["cyst", "none", ""] }],
  ["right", { values: Float32Array.of(1, 0, NaN, 1, 1), words: [] }],
  ["gini/a:b", { values: Float32Array.of(0.1, 0.5, NaN, 0.9, 0.3), words: [] }],
  ["flags", { values: Int32Array.of(0, 4, 5, 1, 0), words: [] }],
]);

const cases: [string[], number[]][] = [
  [[], [0, 1, 2, 3, 4]],
  [["label:is:cyst"], [0, 3]],
  [["label:is:cyst", "label:is:"], [0, 2, 3]],
  [["label:not:cyst", "label:not:"], [1, 4]],
  [["label:is:nobody"], []],
  [["right:is:no"], [1]],
  [["right:is:"], [2]],
  [["gini/a:b:min:0.1", "gini/a:b:max:0.5"], [0, 1, 4]],
  [["gini/a:b:is:"], [2]],
  [["flags:has:no_source"], [1, 2]],
  [["flags:lacks:*"], [0, 4]],
  [["flags:has:*", "label:is:none"], [1]],
];

for (const [texts, rows] of cases) {
  test(`rows that meet ${texts.join(" and ") || "nothing"}`, () => {
    const settings = new URLSearchParams(texts.map((text) => ["filter", text]));
    const { filters, unread } = readFilters(settings, columns);
    assert.deepEqual(unread, []);
    assert.deepEqual(filters.map(writeFilter), texts);
    assert.deepEqual([...rowsThatMeet(filters, wholes, 5)], rows);
  });
}

test("what names no column, no flag or no number is told apart", () => {
  const texts = ["site:is:a", "flags:has:odd", "gini/a:b:min:much", "gini/a:b:min:", "right:is:perhaps", "label"];
  const { filters, unread } = readFilters(new URLSearchParams(texts.map((text) => ["filter", text])), columns);
  assert.deepEqual([filters, unread], [[], texts]);
});

test("a filter is said in words", () => {
  const { filters } = readFilters(new URLSearchParams([["filter", "gini/a:b:min:0.5"], ["filter", "flags:has:no_source"]]), columns);
  assert.deepEqual(filters.map(sayFilter), ["gini: a:b ≥ 0.5", "flags has no source"]);
});
