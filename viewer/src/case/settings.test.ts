import assert from "node:assert/strict";
import { test } from "node:test";
import { forAnotherCase, readSettings, writeSettings } from "./settings.ts";
import { presetsOf } from "./windows.ts";

const ADDRESS = "target=b&explainers=saliency%2Cgradcam&mode=overlay&opacity=0.4&planes=axial&z=3&y=0&x=7&window=40%2C400&zoom=2&centre=1.5%2C2%2C3&channel=t1&smooth=1&mask=0&filter=label%7Eis%7Eb&sort=-entropy";

test("an address is read and written as it was, with what it says beside", () => {
  assert.equal(writeSettings(readSettings(new URLSearchParams(ADDRESS))).toString(), ADDRESS);
});

test("a name of an explainer may hold commas and backslashes", () => {
  const explainers = ["deep, wide: 100 %", "a\\b", "\\,", "plain"];
  assert.deepEqual(readSettings(writeSettings({ explainers })).explainers, explainers);
  assert.deepEqual(readSettings(writeSettings({ explainers: [] })).explainers, []);
});

test("what is no number is as if it were not there", () => {
  const settings = readSettings(new URLSearchParams("window=a,b&zoom=-1&opacity=7&z=&centre=1,x&mode=upside"));
  assert.deepEqual([settings.window, settings.zoom, settings.opacity, settings.cursor, settings.centre, settings.mode], [undefined, undefined, 1, undefined, undefined, undefined]);
});

test("another case keeps what is not of the image", () => {
  const kept = writeSettings(forAnotherCase(readSettings(new URLSearchParams(ADDRESS))));
  assert.deepEqual(["z", "window", "zoom", "centre"].filter((name) => kept.has(name)), []);
  assert.equal(kept.get("sort"), "-entropy");
});

test("windows are made of the finite values", () => {
  const values = Float32Array.from([NaN, Infinity, ...Array.from({ length: 101 }, (_, at) => at)]);
  const windows = Object.fromEntries(presetsOf(values).map(({ name, window }) => [name, window]));
  assert.deepEqual(windows["all values"], { centre: 50, width: 100 });
  assert.deepEqual(windows["5 to 95 %"], { centre: 50, width: 90 });
  assert.ok(presetsOf(Float32Array.of(3, 3))[0]!.window.width > 0);
});
