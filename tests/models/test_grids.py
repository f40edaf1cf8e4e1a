"""Values go from one grid to another as scipy takes them there, whichever way they are looked up."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from models import grids
from models.grids import nearest

RNG = np.random.default_rng(11)
FROM, TO = (5, 7, 4), (9, 6, 8)
CENTRED = np.array(FROM) / np.array(TO)
PARALLEL = {
    "enlarged": (CENTRED, (CENTRED - 1) / 2),
    "halves": ((0.5, 0.5, 0.5), (-0.25, 0.5, 1.5)),
    "mirrored": ((-1.0, 1.0, -0.5), (4.0, 0.0, 3.0)),
    "outside": ((1.0, 1.0, 1.0), (-2.0, 3.5, 40.0)),
    "any": (RNG.uniform(-2, 2, 3), RNG.uniform(-2, 6, 3)),
    "rounded": (CENTRED, (CENTRED - 1) / 2),
}


def by_scipy(values: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    start = matrix[:3, 3] + 1e-6
    found: NDArray[np.uint8] = ndimage.affine_transform(
        values, matrix[:3, :3], start, TO, output=np.uint8, order=0, mode="grid-constant", cval=3
    )
    return found


@pytest.mark.parametrize("name", PARALLEL)
def test_parallel_axes_are_looked_up_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scales, starts = PARALLEL[name]
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(scales) + (RNG.normal(0, 1e-17, (3, 3)) if name == "rounded" else 0)
    matrix[:3, 3] = starts
    values = RNG.integers(4, 250, FROM, np.uint8)
    before, wanted = values.copy(), by_scipy(values, matrix)
    monkeypatch.setattr(grids.ndimage, "affine_transform", _unasked)
    np.testing.assert_array_equal(nearest(values, matrix, TO, outside=3), wanted)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("turn", [1e-3, 0.4])
def test_axes_that_are_turned_are_not(turn: float) -> None:
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    matrix[:3, 3] = 0.5, 1.4995, -0.25
    values = RNG.integers(4, 250, FROM, np.uint8)
    np.testing.assert_array_equal(nearest(values, matrix, TO, outside=3), by_scipy(values, matrix))


def _unasked(*_: Any, **__: Any) -> None:
    raise AssertionError("scipy goes from voxel to voxel")
