"""Regions as DICOM segmentations, and the rule by which a map marks one."""

from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import SegmentationStorage

from models.errors import ConfigurationError
from tasks.cohort.masks import drawn
from tasks.cohort.readers import read_mask
from tasks.export.format import CannotExport
from tasks.export.segmentation import segmentation
from tasks.export.threshold import Threshold
from tests.tasks.export.dicom_cases import GRADCAM, encoded, errors, sourced
from tests.tasks.export.test_dicom_map import Make, enhanced, of_sources, radiograph, series
from tests.tasks.readers.test_dicom_series import oblique


def some(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mark some places of two planes."""
    marked = np.zeros(values.shape, bool)
    marked[1, 1:3, 2:5] = marked[3, 0, 5] = True
    return marked


@of_sources
def test_regions_lie_where_they_were_marked(make: Make, orientation: NDArray[np.float64]) -> None:
    values, source = sourced(make(orientation))
    marked = some(values) if len(values) > 3 else values > 0
    data = encoded(segmentation(marked, source, GRADCAM))
    assert dcmread(BytesIO(data)).SOPClassUID == SegmentationStorage
    volume = hd.seg.segread(BytesIO(data)).get_volume(combine_segments=True)
    places = np.argwhere(volume.array)
    assert source.affine is not None and len(places) == marked.sum()
    points = np.diag([-1, -1, 1, 1]) @ volume.affine @ [*places.T, np.ones(len(places))]
    index = np.rint(np.linalg.inv(source.affine) @ points)[:3].astype(int)
    assert marked[tuple(index)].all()


def test_each_frame_refers_to_its_plane() -> None:
    values, source = sourced(series(oblique(1)))
    made = segmentation(some(values), source, GRADCAM)
    referred = set()
    for frame in made.PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        (number,) = [at for at, plane in enumerate(source.planes) if plane.header.SOPInstanceUID == uid]
        placed = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(placed, source.planes[number].header.ImagePositionPatient, atol=1e-9)
        referred.add(number)
    assert referred == {1, 3}


def test_our_own_reader_takes_it_for_a_mask() -> None:
    values, source = sourced(series(oblique(1)))
    mask = read_mask(encoded(segmentation(some(values), source, GRADCAM)), 3)
    np.testing.assert_array_equal(drawn(mask, None), some(values)[1:4])


def test_a_region_of_a_radiograph_lies_on_top_of_it(tmp_path: Path) -> None:
    values, source = sourced([radiograph()], 2)
    data = encoded(segmentation(values > np.median(values), source, GRADCAM))
    np.testing.assert_array_equal(dcmread(BytesIO(data)).pixel_array, (values > np.median(values))[0])
    assert errors(data, tmp_path) == []


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("make", [series, enhanced])
def test_the_standard_is_kept(make: Make, by_hand: bool, tmp_path: Path) -> None:
    values, source = sourced(make(oblique(1)))
    for marked in (some(values), np.zeros(values.shape, bool)):
        made = segmentation(marked, source, GRADCAM, by_hand=by_hand)
        assert made.SegmentSequence[0].SegmentAlgorithmType == ("MANUAL" if by_hand else "AUTOMATIC")
        assert errors(encoded(made), tmp_path) == []


def test_what_is_exported_again_is_the_same_object() -> None:
    parts = series(oblique(1))
    values, source = sourced(parts)
    first = encoded(segmentation(some(values), source, GRADCAM))
    assert first == encoded(segmentation(some(values), sourced(parts[::-1])[1], GRADCAM))
    other = segmentation(~some(values), source, GRADCAM)
    assert other.SOPInstanceUID != dcmread(BytesIO(first)).SOPInstanceUID


def test_a_region_of_other_planes_is_refused() -> None:
    values, source = sourced(series(oblique(1)))
    with pytest.raises(CannotExport, match=r"has \(4, 4, 6\) places"):
        segmentation(some(values)[1:], source, GRADCAM)


VALUES = np.array([[-9, 0, 1, 2], [3, 4, 4, 5]], np.float32)


@pytest.mark.parametrize(
    ("rule", "marked"),
    [
        ("12.5%", VALUES >= 5),
        ("25%", VALUES >= 4),  # places with equal values are marked together
        ("37.5%", VALUES >= 4),
        ("100%", VALUES > 0),
        ("0.001%", VALUES >= 5),
        ("3", VALUES >= 3),
        ("5.5", VALUES > 9),
    ],
)
def test_the_rule_marks_what_it_says(rule: str, marked: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(Threshold.of(rule).marks(VALUES), marked)


def test_a_blank_map_marks_nothing() -> None:
    assert not Threshold.of("5%").marks(np.zeros((3, 4), np.float32)).any()


@pytest.mark.parametrize("rule", ["0%", "101%", "-1", "0", "nan", "nan%", "inf", "half", "", "%"])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is neither a share of the places, such as 5%, nor a value above 0"):
        Threshold.of(rule)
