from typing import Any

import pytest

from models.explainers.smoothgrad import SmoothGrad
from tasks.report.recipe import in_words
from tasks.storage.location import Location


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"_target_": "a.Net", "spatial_dims": 2, "features": [8, 16]}, "a.Net: spatial dims 2, features 8 / 16"),
        ({"name": "road", "label": None, "signed": True, "blur": {"sigma": 2.5}}, "road: signed yes, blur (sigma 2.5)"),
        ({"name": "words"}, "words"),
        ({"torch": "2.13.0", "none": []}, "torch 2.13.0"),
        (Location(url="/home/of/someone/atlas.nii.gz"), ""),
    ],
)  # fmt: skip
def test_parameters_are_said_in_words(value: Any, text: str) -> None:
    assert in_words(value) == text


def test_a_producer_is_said_with_its_parameters_and_not_where_its_files_lie() -> None:
    assert in_words(SmoothGrad(samples=3)).startswith("smoothgrad: samples 3, ")
    assert in_words({"name": "regions", "atlas": Location(url="/home/of/someone/atlas.nii.gz")}) == "regions"
