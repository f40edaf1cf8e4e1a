import numpy as np
import xarray as xr

from models.flags import ImageFlag, MapFlag
from models.outputs import Output, flags_of
from tasks.store.flags import flags_in, raised


def test_flags_are_told_in_words_row_by_row() -> None:
    maps = np.zeros((4, 2, 3), np.uint8)
    maps[1, 0, 2] = 1
    maps[2, 1, 1] = 3
    found = raised("image_flags", flags_of(ImageFlag), np.array([0, 1, 6, 4], np.uint8))
    found |= raised("map_flags", flags_of(MapFlag), maps)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "image constant": [False, True, False, False],
        "image not finite": [False, False, True, False],
        "image saturated": [False, False, True, True],
        "image mask unplaced": [False, False, False, False],
        "image partly covered": [False, False, False, False],
        "image no tissue": [False, False, False, False],
        "map blank": [False, True, True, False],
        "map not finite": [False, False, True, False],
        "map no source": [False, False, False, False],
        "map inexact": [False, False, False, False],
    }


def test_the_flags_of_a_stored_array_are_those_that_were_declared() -> None:
    output = Output(
        name="map_flags",
        dims=("image_id",),
        kind="flags",
        long_name="x",
        dtype="uint8",
        fill=0,
        flags=flags_of(MapFlag),
    )
    stored = xr.DataArray(np.zeros(3, np.uint8), dims="image_id", attrs=output.cf_attrs)
    assert flags_in(stored) == flags_of(MapFlag) == {"blank": 1, "not_finite": 2, "no_source": 4, "inexact": 8}
