"""The meaning of masks: what is read without a rule, what is refused, and what each rule reads."""

from io import BytesIO
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from tasks.cohort.config import CohortConfig
from tasks.cohort.masks import MaskRule, drawn
from tasks.cohort.readers import read_mask
from tasks.cohort.reading import Unreadable

SQUARE = np.zeros((32, 24), bool)
SQUARE[5:15, 4:12] = True
OTHER = np.roll(SQUARE, 15, axis=0)
WHITE = np.full(SQUARE.shape, 255, np.uint8)
GREY = (255 * SQUARE).astype(np.uint8)


def picture(array: NDArray[Any], format: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    sink = BytesIO()
    Image.fromarray(array, mode).save(sink, format, **options)
    return sink.getvalue()


def palette(indices: NDArray[Any], colours: list[int], **options: Any) -> bytes:
    image, sink = Image.fromarray(indices.astype(np.uint8), "P"), BytesIO()
    image.putpalette(colours)
    image.save(sink, "PNG", **options)
    return sink.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    sink = BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def nifti(array: NDArray[Any]) -> bytes:
    return nibabel.Nifti1Image(array.T, np.eye(4)).to_bytes()


def marked(data: bytes, **rule: Any) -> NDArray[np.bool_]:
    return drawn(read_mask(data, 2), MaskRule(**rule) if rule else None)


JPEG = picture(GREY, "JPEG", quality=75)
SOFT = npy(np.where(SQUARE, 0.9, 0.1).astype(np.float32))
LABELS = (SQUARE + 2 * OTHER).astype(np.uint8)
VOC = palette(LABELS, [0, 0, 0, 128, 0, 0, 0, 128, 0])
RGBA = picture(np.dstack([WHITE, WHITE, WHITE, GREY]))
LA = picture(np.dstack([WHITE, GREY]), mode="LA")
CLEAR = palette(SQUARE, [255, 255, 255, 255, 0, 0], transparency=0)
OVERLAY = picture(np.dstack([GREY, 0 * GREY, 0 * GREY]))


@pytest.mark.parametrize(
    "data",
    [
        picture(GREY),
        picture(SQUARE),
        picture(SQUARE.astype(np.uint8)),
        picture(np.dstack([GREY, GREY, GREY])),
        picture(np.dstack([GREY, GREY, GREY, WHITE])),
        picture(GREY, "TIFF"),
        palette(SQUARE, [0, 0, 0, 255, 255, 255]),
        npy(SQUARE),
        npy(-7.5 * SQUARE),
        nifti(SQUARE.astype(np.uint8)),
    ],
    ids=["8 bit", "1 bit", "0 and 1", "RGB in grey", "opaque", "TIFF", "palette in grey", "bool", "negative", "NIfTI"],
)
def test_two_values_are_unambiguous(data: bytes) -> None:
    np.testing.assert_array_equal(marked(data), SQUARE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (JPEG, r"\d+ values from 0 to 255, .*\{threshold: 128\}.*\{labels: \[1\]\}.*\{channel: alpha\}"),
        (SOFT, r"the values 0\.1, 0\.9, .*\{threshold: 0\.5\}"),
        (picture(LABELS), r"the values 0, 1, 2, .*\{labels: \[1\]\}"),
        (VOC, r"3 channels that differ: .*\{channel: red\}.*its palette's indices, by \{labels: \[1\]\}"),
        (RGBA, r"transparent in places, .*\{channel: alpha\}"),
        (LA, r"transparent in places, .*\{channel: alpha\}, or \{channel: grey\}"),
        (CLEAR, "transparent in places"),
        (OVERLAY, "3 channels that differ"),
        (picture(WHITE), r"its mask is 255 everywhere, so that it marks the whole image"),
        (npy(np.where(SQUARE, np.nan, 0)), "80 values that are NaN or infinite"),
    ],
    ids=["JPEG", "soft", "labels", "palette", "RGBA", "LA", "clear palette", "overlay", "everywhere", "NaN"],
)
def test_what_can_be_understood_in_several_ways_is_refused_with_the_remedies(data: bytes, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        marked(data)


@pytest.mark.parametrize(
    ("data", "rule", "expected"),
    [
        (JPEG, {"threshold": 128}, SQUARE),
        (SOFT, {"threshold": 0.5}, SQUARE),
        (picture(GREY), {"threshold": 255}, SQUARE),
        (picture(WHITE), {"threshold": 1}, WHITE > 0),
        (picture(LABELS), {"labels": [1]}, SQUARE),
        (picture(LABELS), {"labels": [1, 2]}, SQUARE | OTHER),
        (nifti(LABELS.astype(np.float32)), {"labels": [2]}, OTHER),
        (VOC, {"labels": [2]}, OTHER),
        (RGBA, {"channel": "alpha"}, SQUARE),
        (LA, {"channel": "alpha"}, SQUARE),
        (CLEAR, {"channel": "alpha"}, SQUARE),
        (OVERLAY, {"channel": "red"}, SQUARE),
        (OVERLAY, {"channel": 0}, SQUARE),
        (OVERLAY, {"channel": "green"}, 0 * GREY > 0),
        (picture(np.dstack([WHITE, WHITE, WHITE, GREY // 2])), {"channel": "alpha", "threshold": 100}, SQUARE),
        (npy(np.stack([0 * LABELS, LABELS])), {"channel": 1, "labels": [1]}, SQUARE),
    ],
)
def test_a_rule_says_what_marks(data: bytes, rule: dict[str, Any], expected: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(marked(data, **rule), expected)


@pytest.mark.parametrize(
    ("data", "rule", "message"),
    [
        (picture(SQUARE.astype(np.uint8)), {"threshold": 128}, r"the values 0, 1, all below .* \(128\)"),
        (npy(np.linspace(0, 1, 80).reshape(8, 10)), {"threshold": 128}, r"80 values from 0 to 1, all below .* \(128\)"),
        (SOFT, {"labels": [1]}, "takes whole numbers"),
        (picture(GREY), {"channel": "alpha"}, "no channel 'alpha' .*: it has grey"),
        (npy(SQUARE), {"channel": 3}, "no channel 3 .*: it has 0"),
        (picture(np.dstack([GREY, GREY, GREY, WHITE])), {"channel": "alpha"}, "255 everywhere"),
        (npy(SQUARE * np.int64(2**24 + 1)), {"labels": [2**24]}, "labels of 16777216 and above"),
        (npy(SQUARE), {"labels": [2**24 + 1]}, "labels of 16777216 and above"),
    ],
)
def test_a_rule_that_does_not_suit_a_mask_is_no_empty_mask(data: bytes, rule: dict[str, Any], message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        marked(data, **rule)


def test_an_empty_mask_is_empty() -> None:
    for rule in ({}, {"threshold": 0.5}, {"labels": [1]}):
        assert not marked(picture(0 * GREY), **rule).any()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "state one of threshold, labels and channel"),
        ({"threshold": 1, "labels": [1]}, "threshold and labels are two rules"),
        ({"labels": []}, "at least 1 item"),
        ({"labels": [0.5]}, "valid integer"),
        ({"threshold": float("nan")}, "finite number"),
        ({"channel": "yellow"}, "'grey', 'red', 'green', 'blue' or 'alpha'"),
    ],
)
def test_a_rule_says_one_thing(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CohortConfig.model_validate({"source": "/nowhere/", "mask": rule})
