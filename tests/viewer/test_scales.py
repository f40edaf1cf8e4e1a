"""The colour scales: the 99.5th percentile of magnitudes, over images of the cohort, rounded up."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tasks.storage.location import Location
from tasks.store import scales
from tasks.store.template import open_store
from tasks.viewer.scales import NAME, remove_scales
from tests.viewer.stores import write_store


def written(folder: Path) -> dict[str, dict[str, float | bool]]:
    found: dict[str, dict[str, float | bool]] = json.loads((folder / NAME).read_text())["scales"]["attribution"]
    return found


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.2236, 0.25), (1.0, 1.0), (0.00096, 0.001), (7.01e5, 8e5), (2e-9, 2e-9), (9.9, 10.0)]
)
def test_the_ends_of_colours_are_rounded_up(value: float, rounded: float) -> None:
    assert scales._rounded_up(value) == rounded


def test_images_that_come_later_seldom_change_which_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scales, "_IMAGES", 8)
    limits = np.exp(np.random.default_rng(0).normal(size=200))
    maps = xr.DataArray(limits[:, None, None, None] * np.ones((1, 1, 2, 2)), dims=("image_id", "explainer", "y", "x"))
    maps = maps.assign_coords(explainer=["saliency"])
    found = [scales.reach_of(maps[:count], range(count))["saliency"].limit for count in range(100, 200)]
    assert np.count_nonzero(np.diff(found)) < 15


@pytest.fixture
def maps(tmp_path: Path) -> np.ndarray:
    """Maps of five images: one signed, one never below zero, one that is not finite anywhere, and one blank."""
    random = np.random.default_rng(3)
    values = random.normal(0, 2, (5, 1, 4, 9, 11)).astype(np.float32)
    values[:, :, 1] = np.abs(values[:, :, 1])
    values[:, :, 2] = np.nan
    values[:, :, 3] = 0
    values[0, 0, 0, 0] = np.nan
    write_store(tmp_path, {"image": np.zeros((5, 1, 9, 11)), "attribution": values})
    return values


def test_a_scale_is_the_percentile_over_all_cases(tmp_path: Path, maps: np.ndarray) -> None:
    found = written(tmp_path)
    expected = scales._rounded_up(np.nanpercentile(np.abs(maps[:, :, 0]), 99.5))
    assert found["map0"] == {"limit": expected, "signed": True}
    assert found["map1"]["signed"] is False
    assert found["map2"] == found["map3"] == {"limit": 1.0, "signed": False}


def test_of_many_places_some_are_looked_at(tmp_path: Path, maps: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scales, "_PLACES", 40)
    found = scales.reach_of(open_store(Location(url=str(tmp_path)))["attribution"], range(5))["map0"].limit
    expected = np.nanpercentile(np.abs(maps[:, 0, 0].reshape(5, -1)[:, ::3]), 99.5)
    assert found == scales._rounded_up(expected)


def test_scales_are_removed(tmp_path: Path, maps: np.ndarray) -> None:
    remove_scales(Location(url=str(tmp_path)))
    assert not (tmp_path / NAME).exists()
