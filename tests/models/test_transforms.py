"""Transforms of our own, on real series; nibabel and numpy are the oracles."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.testing import data_path

from models.errors import ConfigurationError
from models.preprocessing import Preprocessing
from tasks.cohort.readers import read

SERIES = ["functional.nii", "example4d.nii.gz"]


def prepared(name: str, **component: Any) -> Any:
    decoded = read([(Path(data_path) / name).read_bytes()], 3)
    return Preprocessing([component])(decoded.pixels, decoded.affine), decoded.affine


@pytest.mark.parametrize("name", SERIES)
def test_the_time_average_is_that_of_numpy_in_its_place(name: str) -> None:
    found, affine = prepared(name, _target_="models.transforms.MeanOverChannels")
    expected = nibabel.load(Path(data_path) / name).get_fdata().mean(-1).T
    np.testing.assert_allclose(found.network_input, expected[None], rtol=1e-5)
    np.testing.assert_array_equal(found.affine, affine)
    np.testing.assert_array_equal(found.image, found.network_input)


@pytest.mark.parametrize("channels", [[1], [1, 0]], ids=str)
@pytest.mark.parametrize("name", SERIES)
def test_chosen_channels_are_those_volumes_in_their_order(name: str, channels: list[int]) -> None:
    found, affine = prepared(name, _target_="models.transforms.SelectChannels", channels=channels)
    expected = nibabel.load(Path(data_path) / name).get_fdata().T
    np.testing.assert_array_equal(found.network_input, expected[channels].astype(np.float32))
    np.testing.assert_array_equal(found.affine, affine)


@pytest.mark.parametrize("channels", [[], [-1]], ids=str)
def test_channels_are_counted_from_0(channels: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="channels are one number or more, counted from 0"):
        Preprocessing([{"_target_": "models.transforms.SelectChannels", "channels": channels}])
