import assert from "node:assert/strict";
import { test } from "node:test";
import { gridOf, millimetres, planesOf } from "./geometry.ts";
import { barLength, pan, project, toPoint, toVoxel, zoomAt } from "./projection.ts";
import { cut, outline } from "./slices.ts";

const VOXEL = ["z", "y", "x", "1"];

/** A volume whose axes z, y, x lie along some of the patient's, with a spacing each. */
function volume(axes: readonly [number, number, number], spacing: readonly [number, number, number]) {
  const affine = new Array<number>(16).fill(0);
  axes.forEach((towards, at) => (affine[4 * (Math.abs(towards) - 1) + at] = Math.sign(towards) * spacing[at]!));
  affine[3] = -10;
  return gridOf(["z", "y", "x"], [4, 5, 6], affine, VOXEL);
}

const ORDERS = [[3, 2, 1], [3, 1, 2], [2, 3, 1], [2, 1, 3], [1, 3, 2], [1, 2, 3]] as const;

for (const order of ORDERS) {
  for (const signs of [[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1], [-1, -1, -1]]) {
    const axes = order.map((axis, at) => axis * signs[at]!) as unknown as [number, number, number];
    test(`planes of axes along ${axes}`, () => {
      const grid = volume(axes, [1, 1, 1]);
      const planes = planesOf(grid);
      assert.deepEqual(planes.map(({ name }) => name), ["axial", "coronal", "sagittal"]);
      assert.deepEqual(planes.map(({ letters }) => letters!.join("")), ["ALPR", "SLIR", "SPIA"]);
      for (const plane of planes) {
        const place = (row: number, column: number) => {
          const voxel = toVoxel(project(grid, plane, 0, 100, 100, { factor: 1, centre: [1.5, 2, 2.5] }), column, row);
          return millimetres(grid, voxel)!;
        };
        const [down, right] = [place(60, 50), place(50, 60)].map((to) => to.map((value, axis) => value - place(50, 50)[axis]!));
        const normal = ["sagittal", "coronal", "axial"].indexOf(plane.name);
        assert.ok(down![normal === 2 ? 1 : 2]! < 0 && right![normal === 0 ? 1 : 0]! < 0, "right, anterior and superior come first");
      }
    });
  }
}

test("slices that are thick are shown as they were taken", () => {
  assert.equal(planesOf(volume([2, 3, 1], [4, 1, 1]))[0]!.name, "coronal");
});

test("an oblique image is said to be one, and has the nearest letters", () => {
  const [cos, sin] = [Math.cos(0.4), Math.sin(0.4)];
  const grid = gridOf(["y", "x"], [5, 6], [0, sin, -cos, 0, 0, -cos, -sin, 0, 1, 0, 0, 0, 0, 0, 0, 1], VOXEL);
  assert.ok(grid.isOblique);
  assert.deepEqual(planesOf(grid)[0]!.letters, ["A", "L", "P", "R"]);
});

test("an affine that is not known gives no letters and no places", () => {
  const grid = gridOf(["y", "x"], [5, 6], new Array<number>(16).fill(NaN), VOXEL);
  assert.equal(planesOf(grid)[0]!.letters, undefined);
  assert.equal(millimetres(grid, [0, 0]), undefined);
});

test("points of a panel and voxels are each other's inverse, also when zoomed and moved", () => {
  const grid = volume([-3, -2, -1], [5, 1, 2]);
  for (const plane of planesOf(grid)) {
    let zoom = { factor: 1, centre: [1.5, 2, 2.5] as readonly number[] };
    const whole = project(grid, plane, 2, 200, 120, zoom);
    zoom = zoomAt(whole, zoom, 3, 40, 30);
    const near = project(grid, plane, 2, 200, 120, zoom);
    toVoxel(near, 40, 30).forEach((value, axis) => assert.ok(Math.abs(value - toVoxel(whole, 40, 30)[axis]!) < 1e-9));
    const moved = project(grid, plane, 2, 200, 120, pan(near, zoom, 7, -4));
    const [x, y] = toPoint(moved, toVoxel(near, 40, 30));
    assert.ok(Math.abs(x - 47) < 1e-9 && Math.abs(y - 26) < 1e-9);
  }
});

test("a scale bar is a round length that fits a quarter of the panel", () => {
  const grid = volume([-3, -2, -1], [5, 1, 2]);
  const axial = planesOf(grid).find(({ name }) => name === "axial")!;
  assert.equal(barLength(project(grid, axial, 0, 120, 120, { factor: 1, centre: [1.5, 2, 2.5] })), 2);
});

test("slices are cut and turned as the plane says", () => {
  const grid = gridOf(["y", "x"], [2, 3], [0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1], VOXEL);
  const { values } = cut([0, 1, 2, 3, 4, 5], grid, planesOf(grid)[0]!, 0);
  assert.deepEqual([...values], [5, 4, 3, 2, 1, 0]);
});

test("an outline runs along the edges of the voxels of a label, and round holes", () => {
  const values = Float32Array.of(1, 1, 1, 1, 0, 1, 1, 1, 2);
  assert.equal(outline({ values, width: 3, height: 3 }, 1).length / 4, 12 + 4);
  assert.equal(outline({ values, width: 3, height: 3 }, 2).length / 4, 4);
});
