"""DICOM segmentations as they are written: several segments, frames without a finding left out, in any order."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import SegmentationStorage

from tasks.cohort.masks import MaskRule, drawn
from tasks.cohort.readers import read_mask
from tasks.cohort.reading import Decoded, Unreadable
from tests.tasks.readers.test_dicom import AXIAL, dataset, encode, item

SHAPE = (6, 5, 8)
LIVER = np.zeros(SHAPE, np.uint8)
LIVER[1:3, 1:4, 2:5] = LIVER[5, 2, 3] = 1
TUMOUR = np.zeros(SHAPE, np.uint8)
TUMOUR[2, 4, 2:7] = TUMOUR[3, 0, 0] = 1


def frames(*segments: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """List the segment and the slice of each frame, without the empty ones."""
    return [
        (number, height)
        for number, segment in enumerate(segments, 1)
        for height in range(len(segment))
        if segment[height].any()
    ]


def segmentation(
    *segments: NDArray[np.uint8], listed: list[tuple[int, int]] | None = None, kind: str = "BINARY", **measures: Any
) -> bytes:
    """Encode a segmentation of slices that are 2.5 mm apart."""
    listed = listed or frames(*segments)
    stored = np.stack([segments[number - 1][height] for number, height in listed])
    made = dataset(stored[0], 8)
    made.SOPClassUID, made.Modality, made.SegmentationType = SegmentationStorage, "SEG", kind
    made.NumberOfFrames = len(listed)
    if kind == "FRACTIONAL":
        made.PixelData = (stored * 255).tobytes()
    else:
        made.BitsAllocated, made.BitsStored, made.HighBit = 1, 1, 0
        packed = np.packbits(stored.ravel(), bitorder="little").tobytes()
        made.PixelData = packed + bytes(len(packed) % 2)
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[*AXIAL])],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2.5, **measures)],
    )
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.5 * height])],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
        )
        for number, height in listed
    ]
    return encode(made)


def marked(data: bytes, rule: dict[str, Any] | None = None) -> tuple[NDArray[np.bool_], Decoded]:
    """Lay what is drawn into the slices that it was drawn in, by the affine."""
    mask = read_mask(data, 3)
    assert mask.affine is not None
    lowest = round(mask.affine[2, 3] / 2.5)
    assert np.allclose(mask.affine[:3, 0], [0, 0, 2.5])
    found = np.zeros(SHAPE, bool)
    here = drawn(mask, MaskRule.model_validate(rule) if rule else None)
    found[lowest : lowest + len(here)] = here
    return found, mask


@pytest.mark.parametrize("measures", [{"SpacingBetweenSlices": 2.5}, {}], ids=["spacing", "no spacing"])
@pytest.mark.parametrize("turn", [1, -1])
def test_slices_without_a_finding_may_be_left_out(measures: dict[str, Any], turn: int) -> None:
    data = segmentation(LIVER, listed=frames(LIVER)[::turn], **measures)
    np.testing.assert_array_equal(marked(data)[0], LIVER)


def test_two_distant_frames_mark_nothing_between_them() -> None:
    ends = LIVER.copy()
    ends[2] = 0
    np.testing.assert_array_equal(marked(segmentation(ends, SpacingBetweenSlices=2.5))[0], ends)


@pytest.mark.parametrize(
    ("labels", "expected"), [([1], LIVER), ([2], TUMOUR), ([1, 2], LIVER | TUMOUR)], ids=["1", "2", "both"]
)
def test_segments_are_labels(labels: list[int], expected: NDArray[np.uint8]) -> None:
    data = segmentation(LIVER, TUMOUR, SpacingBetweenSlices=2.5)
    np.testing.assert_array_equal(marked(data, {"labels": labels})[0], expected)
    with pytest.raises(Unreadable, match=r"the values 0, 1, 2, .*labels"):
        marked(data)


def test_a_fractional_segmentation_keeps_its_values() -> None:
    found, mask = marked(segmentation(LIVER, kind="FRACTIONAL", SpacingBetweenSlices=2.5), {"threshold": 128})
    np.testing.assert_array_equal(found, LIVER)
    assert mask.pixels.max() == 255


@pytest.mark.parametrize(
    ("segments", "more", "message"),
    [
        ((LIVER, LIVER), {}, "segments of the segmentation overlap"),
        ((LIVER, TUMOUR), {"kind": "FRACTIONAL"}, "a fractional segmentation of 2 segments"),
        ((LIVER, TUMOUR), {"SpacingBetweenSlices": 2}, "do not lie at whole distances"),
        ((LIVER,), {"SpacingBetweenSlices": 1e-4}, "declares 100001 frames"),
    ],
    ids=["overlap", "fractional", "distances", "far apart"],
)
def test_what_is_no_label_map_is_refused(segments: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read_mask(segmentation(*segments, **more), 3)
