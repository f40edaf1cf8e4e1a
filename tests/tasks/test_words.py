import numpy as np
import pytest
import xarray as xr

from tasks.report.words import findings, regions, sentences

UNKNOWN = np.full((4, 4), np.nan)


def image(maps: dict[str, np.ndarray], mask: np.ndarray | None = None, affine: np.ndarray = UNKNOWN) -> xr.Dataset:
    found = xr.Dataset(
        {
            "attribution": (("target", "explainer", "y", "x"), np.stack(list(maps.values()))[None]),
            "affine": (("world", "voxel"), affine),
        },
        {"explainer": list(maps)},
    )
    return found if mask is None else found.assign(mask=(("y", "x"), mask.astype(np.uint8)))


def corner(value: float = 1.0) -> np.ndarray:
    values = np.zeros((8, 8))
    values[:2, 6:] = value
    return values


def test_where_the_evidence_lies() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:2, 6] = True
    found = findings(image({"a": corner(), "b": corner(3) - 0.5}, mask), 0, ["a", "b"])
    assert found is not None
    assert found.inside == {"a": 0.5, "b": 0.5}
    assert found.mask_share == 2 / 64
    assert (found.region, found.region_share, found.even) == ("upper right", 1.0, 0.25)
    assert found.agreement == pytest.approx(1)


def test_what_is_not_evidence() -> None:
    maps = {"nothing": np.zeros((8, 8)), "against": -corner(), "missing": corner(np.nan)}
    assert findings(image(maps), 0, list(maps)) is None
    empty = findings(image({"a": corner()}, np.zeros((8, 8), bool)), 0, ["a"])
    assert empty is not None
    assert empty.inside == {}
    assert np.isnan(empty.agreement)


def test_regions_go_by_the_patient_where_that_is_known() -> None:
    ras = np.zeros((4, 4))
    ras[1, 1], ras[0, 2], ras[2, 0] = -1, 1, 1  # y towards posterior, x towards right
    places = regions((4, 6), ras)
    assert places["left anterior"][:2, :3].all()
    assert places["left anterior"].sum() == 6
    assert set(regions((4, 4), UNKNOWN)) == {"upper left", "upper right", "lower left", "lower right"}
    octants = regions((4, 4, 4), ras)
    assert len(octants) == 8
    assert octants["right posterior superior"][2:, 2:, 2:].all()
    assert sum(place.astype(int) for place in octants.values()).min() == 1


def test_sentences_are_honest() -> None:
    found = findings(image({"a": corner(), "b": np.rot90(corner(), 2)}), 0, ["a", "b"])
    text = sentences("lesion", 0.97, "normal", False, found)
    assert "says lesion, almost certainly (97 %), but the label is normal." in text
    assert "50 % of the evidence lies" in text
    assert "hardly agree (rank correlation -0.07)" in text
    assert sentences("lesion", 0.51, "", None, None) == (
        "The model says lesion, with much doubt (51 %). No map shows evidence for it."
    )
