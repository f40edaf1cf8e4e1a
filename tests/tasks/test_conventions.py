"""The store as a reader of the CF conventions has it, who knows nothing of this project."""

import cf_xarray  # noqa: F401  # registers `.cf`
import numpy as np
import pytest
import xarray as xr

from tasks.storage.location import Location
from tasks.store.template import open_store
from tests.tasks.outputs import Cohort, carry_out


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    folder = tmp_path_factory.mktemp("conventions")
    cohort = Cohort(folder / "cohort", range(4))
    np.save(cohort.folder / "1.npy", np.ones((16, 16), np.float32))
    (cohort.folder / "2.npy").write_bytes(b"no image")
    content = cohort.content(Location(url=str(folder / "out")), metrics=["gini"])
    content["cohort"]["allowed_failures"] = 1.0
    carry_out(content)
    return open_store(Location(url=str(folder / "out"))).load()


def test_statuses_are_flags_by_name(store: xr.Dataset) -> None:
    assert (store["status"].cf == "explained").values.tolist() == [True, True, False, True]
    assert (store["status"].cf == "quarantined").values.tolist() == [False, False, True, False]
    assert (store["present"].cf == "present").values.all()


def test_what_is_odd_is_flags_by_bit(store: xr.Dataset) -> None:
    flags = store["image_flags"].cf.flags
    assert set(flags) == {"constant", "not_finite", "saturated", "mask_unplaced", "partly_covered", "no_tissue"}
    assert flags["constant"].values.tolist() == [False, True, False, False]
    assert {"blank", "not_finite", "no_source", "inexact"} == set(store["map_flags"].cf.flags)


def test_masks_are_flags_by_value(store: xr.Dataset) -> None:
    inside = (store["mask"].cf == "inside").values
    assert inside[0].any() and (inside == (store["mask"].values == 1)).all()


def test_every_variable_has_a_name_and_a_unit_and_the_conventions_are_named(store: xr.Dataset) -> None:
    assert store.attrs["Conventions"] == "CF-1.12"
    for name, variable in store.variables.items():
        assert variable.attrs.get("long_name") and variable.attrs.get("units"), name
    assert store["affine"].attrs["units"] == store["world"].attrs["units"] == "mm"
