import assert from "node:assert/strict";
import { test } from "node:test";
import type { Column, Listing, Whole } from "./listing.ts";
import { arrange, orderSettings } from "./order.ts";

const columns: Column[] = [
  { name: "id", title: "image", about: "", kind: "word" },
  { name: "label", title: "label", about: "", kind: "word" },
  { name: "gini", title: "gini", about: "", kind: "number" },
];
const wholes: Record<string, Whole> = {
  id: { values: Int32Array.of(0, 1, 2, 3, 4), words: ["Case-9", "case-1", "case-5", "other", "case-3"] },
  label: { values: Int32Array.of(0, 1, 2, 0, 1), words: ["cyst", "abscess", ""] },
  gini: { values: Float32Array.of(0.2, NaN, 0.7, 0.2, 0.5), words: [] },
};
const read: string[] = [];
const listing: Listing = {
  rows: 5,
  columns,
  usual: [],
  notices: [],
  read: async () => [],
  whole: async ({ name }) => {
    read.push(name);
    return wholes[name]!;
  },
};

const orders: [string, number[], string[]][] = [
  ["", [0, 1, 2, 3, 4], []],
  ["columns=label&at=3", [0, 1, 2, 3, 4], []],
  ["sort=gini", [0, 3, 4, 2, 1], ["gini"]],
  ["sort=-gini", [2, 4, 0, 3, 1], ["gini"]],
  ["sort=label", [1, 4, 0, 3, 2], ["label"]],
  ["sort=-label", [0, 3, 1, 4, 2], ["label"]],
  ["search=CASE", [0, 1, 2, 4], ["id"]],
  ["search=case&filter=gini:min:0.2&sort=-gini", [2, 4, 0], ["gini", "id"]],
];

for (const [query, rows, needed] of orders) {
  test(`the order of ${query || "nothing"}`, async () => {
    read.length = 0;
    const order = await arrange(listing, new URLSearchParams(query));
    assert.deepEqual(Array.from({ length: order.count }, (_, place) => order.rowAt(place)), rows);
    assert.deepEqual(rows.map(order.placeOf), [...rows.keys()]);
    assert.deepEqual(read.sort(), needed);
    assert.deepEqual(order.unread, []);
  });
}

test("a row that is filtered out has no place, and what cannot be sorted by is told", async () => {
  const order = await arrange(listing, new URLSearchParams("filter=label:is:cyst&sort=age"));
  assert.deepEqual([order.placeOf(1), order.count, order.unread], [-1, 2, ["sort=age"]]);
});

test("a link to a case takes along what decides the order alone", () => {
  const settings = orderSettings(new URLSearchParams("filter=a:is:b&at=7&columns=label&sort=-gini&filter=c:is:"));
  assert.equal(settings.toString(), "filter=a%3Ais%3Ab&sort=-gini&filter=c%3Ais%3A");
});
