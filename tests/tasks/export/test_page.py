"""The page of a case: its colours, outlines and text, read back from the picture."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.cohort.entry import Entry
from tasks.export.case import Case, Map, Network
from tasks.export.drawn import DrawnRegion
from tasks.export.native import Way
from tasks.export.page import Pdf, Png, _drawn, _panels, _shown
from tasks.export.threshold import Threshold
from tasks.report.pictures import Scale

AXIAL = np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
"""Index (z, y, x) to RAS mm, of slices that are shown as they were taken."""


def case_of(space: tuple[int, ...], affine: NDArray[np.float64] | None = None, channels: int = 1) -> Case:
    """Make a case without a run: the map is at its upper end on the left, and at its lower end on the right."""
    values = np.full(space, -0.5, np.float32)
    values[..., : space[-1] // 2] = 0.5
    one = Map(
        output="attribution",
        explainer="saliency",
        target="lesion",
        explained="lesion",
        channel="",
        about="a map",
        parameters={},
        flags=("map blank",),
        scale=Scale("saliency", 0.5, signed=True),
        threshold=Threshold.of("5%"),
        on_grid=values,
        way=Way(np.eye(4), space, space),
    )
    mask = np.zeros(space, bool)
    mask[..., 4:8, 4:8] = True
    return Case(
        entry=Entry(id="0123456789abcdef", label="lesion"),
        pixels=np.tile(np.linspace(0, 1, space[-1], dtype=np.float32), (channels, *space[:-1], 1)),
        channels=tuple(map(str, range(channels))),
        affine=affine,
        seen=np.ones(space, bool),
        maps=(one,),
        left_out=(),
        mask=mask,
        drawn=(),
        lost=(),
        scores={
            "probability": {"normal": 0.25, "lesion": 0.75},
            "metric_gini": {"lesion": {"saliency": -0.625}},
            "metric_hit_rate": {"lesion": {"saliency": None}},
        },
        kinds={"probability": "prediction", "metric_gini": "metric", "metric_hit_rate": "metric"},
        flags=("image saturated",),
        words="The network predicts $lesion$.",
        network=Network("Classifier", "0" * 64),
        files=(),
    )


def texts(case: Case) -> list[str]:
    figure = _drawn(case)
    return [text.get_text() for text in [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]]


def test_words_flags_scores_and_scale_are_on_the_page() -> None:
    found = texts(case_of((16, 20)))
    assert found[:3] == [
        "0123456789abcdef, label lesion",
        "predicted: lesion 75.0 %, normal 25.0 %",
        "flags: image saturated",
    ]
    assert {"saliency for lesion", "map blank", "gini −0.625", "−0.5", "0", "0.5"} <= {*found}
    assert not any("hit rate" in text for text in found)
    assert "The network predicts $lesion$." in found  # and not a formula
    assert any("outlined in green" in text for text in found) and not any("dashes" in text for text in found)


def test_what_is_not_shown_is_said() -> None:
    case = case_of((16, 20))
    seen = case.seen.copy()
    seen[:2] = False
    found = " ".join(texts(replace(case, seen=seen, left_out=("rise for lesion",), mask=None)))
    assert "Not shown, since they are not finite: rise for lesion." in found
    assert "within the white dashes; maps are 0 elsewhere" in found and "green" not in found


def test_a_regression_shows_its_values() -> None:
    case = case_of((16, 20))
    assert "predicted: age 61.2" in texts(replace(case, scores={"logit": {"age": 61.23}}))


def test_letters_tell_the_patients_sides_and_a_volume_its_slice() -> None:
    found = texts(case_of((5, 16, 20), AXIAL))
    assert {"A", "L", "P", "R"} <= {*found} and any(re.match("image, axial, slice [1-5] of 5", text) for text in found)
    assert not {"A", "L", "P", "R"} & {*texts(case_of((5, 16, 20)))}


@pytest.mark.parametrize(("space", "affine"), [((16, 20), None), ((5, 16, 20), AXIAL)])
def test_what_speaks_for_is_red_and_what_speaks_against_is_blue(space: Any, affine: Any, tmp_path: Path) -> None:
    case = case_of(space, affine)
    Png().write(case, tmp_path)
    with Image.open(tmp_path / "0123456789abcdef.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert 1239 <= pixels.shape[1] <= 1241  # 8.27 inches at 150 dots
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    strong_red, strong_blue = (red > blue + 90) & (red > green + 50), (blue > red + 90) & (blue > green + 50)
    assert strong_red.sum() > 5000 < strong_blue.sum()
    assert np.median(np.nonzero(strong_red)[1]) < np.median(np.nonzero(strong_blue)[1])
    outline = (green > 180) & (red < 60) & (blue < 150)
    assert outline.sum() > 50


def test_the_picture_has_the_shape_that_the_patient_has() -> None:
    case = case_of((16, 20), np.array([[0, 0, -1.0, 0], [0, -4.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]]))
    figure = _drawn(case)
    box = figure.axes[0].get_position()
    width, height = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
    assert height / width == pytest.approx(64 / 20)  # in mm


def test_three_channels_are_colours() -> None:
    case = case_of((16, 20), channels=3)
    pixels = case.pixels.copy()
    pixels[1:] = 0
    coloured = replace(case, pixels=pixels)
    image = next(iter(_panels(coloured, _shown(coloured)))).colours
    assert image[:, -1, 0].min() > 0.9 and image[..., 1:].max() == 0


def region_of(case: Case, rater: str, marked: NDArray[np.bool_]) -> DrawnRegion:
    way = Way(np.eye(4), case.space, case.space)
    return DrawnRegion(rater, "0" * 32, "", "", "2026-11-26T10:15:00+00:00", marked, way)


def test_regions_that_raters_drew_are_outlined_in_colours_that_the_page_names(tmp_path: Path) -> None:
    case = replace(case_of((16, 20)), maps=())
    marked = np.zeros((16, 20), bool)
    marked[10:14, 12:18] = True
    drawn = (region_of(case, "reader-a", marked), region_of(case, "reader-b", marked & False))
    Png().write(replace(case, drawn=drawn), tmp_path)
    with Image.open(tmp_path / "0123456789abcdef.png") as picture:
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), -1, 0)
    rows, columns = np.nonzero((red > 200) & (green < 120) & (blue > 200))
    outline_rows, outline_columns = np.nonzero((green > 180) & (red < 60) & (blue < 150))
    assert len(rows) > 50 and rows.min() > outline_rows.max() and columns.min() > outline_columns.max()
    sides = (np.ptp(columns) / np.ptp(outline_columns), np.ptp(rows) / np.ptp(outline_rows))
    np.testing.assert_allclose(sides, (6 / 4, 1), rtol=0.05)
    found = " ".join(texts(replace(case, drawn=drawn, lost=("drawn by c",))))
    assert (
        "Regions: drawn by c (on no voxel of the image); drawn by reader-a (magenta); drawn by reader-b (no finding)."
        in found
    )


def test_a_volume_without_a_mask_shows_the_slice_that_raters_drew_on() -> None:
    case = replace(case_of((5, 16, 20), AXIAL), mask=None)
    first, second = np.zeros((2, 5, 16, 20), bool)
    first[1, 2:12, 3:12] = second[3, 5, 5] = True
    drawn = (region_of(case, "reader-a", first), region_of(case, "reader-b", second))
    found = texts(replace(case, drawn=drawn))
    assert "image, axial, slice 2 of 5" in found
    assert any("reader-a (magenta); drawn by reader-b (on other slices)" in text for text in found)


def test_a_pdf_is_one_page_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Pdf().write(case_of((16, 20)), tmp_path / name)
        made.append((tmp_path / name / "0123456789abcdef.pdf").read_bytes())
    assert made[0] == made[1] and made[0].startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", made[0])) == 1
