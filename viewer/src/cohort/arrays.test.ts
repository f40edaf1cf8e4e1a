import assert from "node:assert/strict";
import { test } from "node:test";
import type { Output, Variable } from "../output/output.ts";
import { arrangeResults, commonWords, isOfImages } from "./arrays.ts";

function declared(name: string, dims: string[], shape: number[], about = "", kind = "result"): [string, Variable] {
  return [name, { name, dims, shape, attributes: { kind, long_name: about } }];
}

test("results are arranged by what is declared of them", () => {
  const variables = new Map([
    declared("tcav_score", ["concept", "class"], [3, 2]),
    declared("tcav_p", ["concept", "class"], [3, 2]),
    declared("tcav_accuracy", ["concept"], [3]),
    declared("tcav_direction", ["concept", "feature"], [3, 512]),
    declared("tcav_map", ["concept", "y", "x"], [3, 8, 8]),
    declared("similar_image", ["image_id", "neighbour"], [9, 2], "row of the nearest images"),
    declared("metric_gini", ["image_id"], [9], "", "metric"),
  ]);
  const [group, ...rest] = arrangeResults({ variables } as unknown as Output);
  assert.deepEqual(rest, []);
  assert.equal(group!.title, "tcav");
  assert.deepEqual(group!.tables.map((table) => table.map(({ name }) => name)), [["tcav_accuracy"], ["tcav_p", "tcav_score"]]);
  assert.deepEqual(group!.pictures.map(({ name }) => name), ["tcav_map"]);
  assert.deepEqual(group!.others.map(({ name }) => name), ["tcav_direction"]);
});

test("a name is what all names begin with", () => {
  assert.equal(commonWords(["class_visualisation", "class_visualisation_row"]), "class_visualisation");
  assert.equal(commonWords(["rcv_p", "rcv_r2"]), "rcv");
  assert.equal(commonWords(["mean_maps"]), "mean_maps");
});

test("an array of rows is told by its long name", () => {
  assert.ok(isOfImages(declared("prototype_image", [], [], "row of an image that stands for the class; -1 where there is none")[1]));
  assert.ok(!isOfImages(declared("prototype_share", [], [], "share of the images")[1]));
});
