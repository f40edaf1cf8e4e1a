"""Slices, frames and doses as volumes of the patient's space, and what is refused as none."""

from collections.abc import Callable, Sequence
from itertools import permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTDoseStorage

from tasks.cohort.readers import inspect, read
from tasks.cohort.reading import Decoded, NoImage, Unreadable
from tests.tasks.readers.test_dicom import AXIAL, dataset, encode, item, plane, shipped

LPS_TO_RAS = [-1, -1, 1]
ROWS, COLUMNS, SLICES = 4, 6, 5
SPACING, GAP = np.array([1.5, 0.75]), 2.5
ORIGIN = np.array([-20.0, 35.0, 12.0])
SCENE = np.array([40.0, 90.0, 130.0])
"""Grey values grow by so much with each mm along the patient's axes."""

AXES = [
    np.array([np.eye(3)[row] * signs[0], np.eye(3)[column] * signs[1]]).ravel()
    for row, column in permutations(range(3), 2)
    for signs in product((1, -1), repeat=2)
]


def oblique(seed: int) -> NDArray[np.float64]:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return rotation[:2].ravel()


def position(orientation: NDArray[np.float64], height: float) -> NDArray[np.float64]:
    return ORIGIN + height * np.cross(orientation[:3], orientation[3:])


def scene(orientation: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Draw what a plane shows, by PS3.3 C.7.6.2.1.1."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS][..., None]
    points = origin + columns * SPACING[1] * orientation[:3] + rows * SPACING[0] * orientation[3:]
    return (20_000 + points @ SCENE).round().astype(np.uint16)


def located_at(orientation: NDArray[np.float64], origin: NDArray[np.float64]) -> dict[str, object]:
    return {
        "ImagePositionPatient": [*origin],
        "ImageOrientationPatient": [*orientation],
        "PixelSpacing": [*SPACING],
    }


def slices(orientation: NDArray[np.float64]) -> list[bytes]:
    made = []
    for number in range(SLICES):
        origin = position(orientation, GAP * number)
        made.append(encode(dataset(scene(orientation, origin), 16, **located_at(orientation, origin))))
    return made


def frames(orientation: NDArray[np.float64], order: Sequence[int]) -> bytes:
    origins = [position(orientation, GAP * number) for number in order]
    made = dataset(np.stack([scene(orientation, origin) for origin in origins]), 16)
    made.NumberOfFrames, made.Rows, made.Columns = len(order), ROWS, COLUMNS
    made.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[*SPACING], SliceThickness=9)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[*orientation])],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[*origin])]) for origin in origins
    ]
    return encode(made)


def dose(offsets: Sequence[float], **elements: object) -> bytes:
    heights = np.array(offsets) - offsets[0]
    volume = np.stack([scene(np.array(AXIAL), position(np.array(AXIAL), height)) for height in heights])
    located = located_at(np.array(AXIAL), ORIGIN)
    made = dataset(volume, 16, SOPClassUID=RTDoseStorage, Rows=ROWS, Columns=COLUMNS, NumberOfFrames=len(offsets))
    for keyword, value in (
        located | {"GridFrameOffsetVector": [*offsets], "Modality": "RTDOSE", "DoseGridScaling": 1} | elements
    ).items():
        setattr(made, keyword, value)
    return encode(made)


def assert_shows_the_scene(decoded: Decoded) -> None:
    assert decoded.affine is not None
    index = np.stack([*np.indices(decoded.pixels.shape[1:]), np.ones(decoded.pixels.shape[1:])], -1)
    points = (index @ decoded.affine.T)[..., :3] * LPS_TO_RAS
    np.testing.assert_allclose(decoded.pixels[0], 20_000 + points @ SCENE, atol=0.6)


@pytest.mark.parametrize("orientation", [*AXES, *map(oblique, range(6))], ids=lambda axes: str(np.round(axes, 1)))
@pytest.mark.parametrize("make", [slices, lambda axes: [frames(axes, [3, 0, 4, 1, 2])]], ids=["slices", "frames"])
def test_shuffled_slices_of_any_orientation_show_the_same_patient(
    orientation: NDArray[np.float64], make: Callable[[NDArray[np.float64]], list[bytes]]
) -> None:
    parts = make(orientation)
    shuffled = [parts[place] for place in np.random.default_rng(3).permutation(len(parts))]
    decoded = read(shuffled, 3)
    assert_shows_the_scene(decoded)
    np.testing.assert_array_equal(decoded.pixels, read(parts, 3).pixels)


def test_frames_that_descend_are_a_volume_that_ascends() -> None:
    decoded = read([frames(np.array(AXIAL), [4, 3, 2, 1, 0])], 3)
    assert_shows_the_scene(decoded)
    assert (np.diff(decoded.pixels[0, :, 0, 0]) > 0).all()


@pytest.mark.parametrize(
    "offsets",
    [[0, 2.5, 5, 7.5], [0, -2.5, -5, -7.5], [0, 5, 2.5, 7.5], [12, 14.5, 17, 19.5], [12, 9.5, 7, 4.5]],
    ids=["relative", "relative, descending", "shuffled", "absolute", "absolute, descending"],
)
def test_the_planes_of_a_dose_lie_where_its_offsets_say(offsets: list[float]) -> None:
    assert_shows_the_scene(read([dose(offsets)], 3))


def test_relative_offsets_go_along_the_normal() -> None:
    decoded = read([dose([0, 2, 4], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])], 3)
    assert decoded.affine is not None
    np.testing.assert_allclose(decoded.affine @ [2, 0, 0, 1], [20, -39, 12, 1])


def test_somebody_elses_dose_has_planes() -> None:
    affine = read([shipped("rtdose.dcm")], 3).affine
    assert affine is not None
    np.testing.assert_allclose(affine @ [14, 0, 0, 1], [-189.43125, -199.43125, -761.87 + 14 * 5, 1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dose([0, 2, 4, 9]), "not evenly spaced: 2.00 mm apart, but 5.00 mm"),
        (dose([0, 2, 4], GridFrameOffsetVector=[0, 2]), "GridFrameOffsetVector has 2 numbers for 3 frames"),
        (dose([0, 2, 4], GridFrameOffsetVector=[3, 5, 7]), "GridFrameOffsetVector begins with 3, which is neither"),
        (dose([12, 14, 16], ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "GridFrameOffsetVector begins with 12"),
        (dose([0, 0, 0]), "two slices lie at the same position"),
    ],
    ids=["uneven", "too few", "from elsewhere", "absolute in coronal planes", "all in one place"],
)
def test_a_dose_that_contradicts_itself_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read([data], 3)


@pytest.mark.parametrize("distance", [None, "", 0, -2, "NaN"])
def test_frames_an_unknown_distance_apart_have_no_geometry(distance: object) -> None:
    made = dataset(np.zeros((3, 4, 6), np.uint16), Rows=4, Columns=6, NumberOfFrames=3, SliceThickness=2)
    made.ImagePositionPatient, made.ImageOrientationPatient, made.PixelSpacing = [0, 0, 0], [*AXIAL], [1, 1]
    if distance is not None:
        made.SpacingBetweenSlices = distance
    assert read([encode(made)], 3).affine is None


WRONG = {
    "orientation not perpendicular": ({"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, "not perpendicular"),
    "orientation too long": ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "not of length 1"),
    "orientation of zeros": ({"ImageOrientationPatient": [0] * 6}, "not of length 1"),
    "orientation NaN": ({"ImageOrientationPatient": ["NaN", 0, 0, 0, 1, 0]}, "ImageOrientationPatient holds numbers"),
    "orientation cut": ({"ImageOrientationPatient": [1, 0, 0]}, "ImageOrientationPatient has 3 numbers, not 6"),
    "position cut": ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient has 2 numbers, not 3"),
    "position infinite": ({"ImagePositionPatient": [1, 2, "inf"]}, "ImagePositionPatient holds numbers"),
    "spacing zero": ({"PixelSpacing": [0, 1]}, "PixelSpacing is 0 and 1 mm"),
    "spacing next to nothing": ({"PixelSpacing": ["1e-30", 1]}, "PixelSpacing is 1e-30 and 1 mm"),
    "position far away": ({"ImagePositionPatient": [1, 2, "1e30"]}, "ImagePositionPatient holds numbers"),
    "spacing negative": ({"PixelSpacing": [1, -1]}, "PixelSpacing is 1 and -1 mm"),
    "spacing of one": ({"PixelSpacing": 1}, "PixelSpacing has 1 numbers, not 2"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_slices_that_lie_nowhere_are_refused_with_the_tag(wrong: str) -> None:
    elements, message = WRONG[wrong]
    with pytest.raises(Unreadable, match=message):
        read([plane(0.0), plane(3.0, **elements), plane(6.0)], 3)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_picture_that_lies_nowhere_is_one_without_geometry(wrong: str) -> None:
    decoded = read([plane(3.0, **WRONG[wrong][0])], 2)
    assert decoded.affine is None
    np.testing.assert_array_equal(decoded.pixels, 30)


@pytest.mark.parametrize("thickness", [None, "", 0, -2, "NaN"])
def test_a_single_slice_of_unknown_thickness_counts_as_one_millimetre_thick(thickness: object) -> None:
    affine = read([plane(3.0, SliceThickness=thickness, SpacingBetweenSlices=thickness)], 2).affine
    assert affine is not None
    np.testing.assert_array_equal(affine[:3, 0], [0, 0, 1])


def test_the_distance_between_slices_is_that_of_their_positions() -> None:
    affine = read([plane(3.0 * z, SpacingBetweenSlices=-7, SliceThickness="NaN") for z in range(3)], 3).affine
    assert affine is not None
    np.testing.assert_allclose(affine @ [2, 0, 0, 1], [-10, -20, 36, 1])


def test_a_mosaic_of_slices_is_refused_by_its_header() -> None:
    made = dataset(np.zeros((4, 6), np.uint16), Rows=4, Columns=6, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    made.Modality = "MR"
    with pytest.raises(Unreadable, match=r"a mosaic .*convert it to NIfTI"):
        inspect(encode(made))
    made.Modality = "OP"  # a panorama of the retina
    assert read([encode(made)], 2).pixels.shape == (1, 4, 6)


def test_empty_functional_groups_say_nothing() -> None:
    made = dataset(np.zeros((2, 4, 6), np.uint16), Rows=4, Columns=6, NumberOfFrames=2)
    made.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[], PlaneOrientationSequence=[])]
    made.PerFrameFunctionalGroupsSequence = [item(PlanePositionSequence=[]), item()]
    assert read([encode(made)], 3).affine is None


def test_frames_that_share_one_position_are_no_volume() -> None:
    made = dataset(np.zeros((2, 4, 6), np.uint16), Rows=4, Columns=6, NumberOfFrames=2, SpacingBetweenSlices=2)
    made.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1])],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[*AXIAL])],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 0])],
        )
    ]
    with pytest.raises(Unreadable, match="same position"):
        read([encode(made)], 3)


def test_slices_that_jump_aside_are_no_volume() -> None:
    aside = plane(3.0, ImagePositionPatient=[14, 20, 33])
    with pytest.raises(Unreadable, match=r"slice 2 of 3 lies 4\.00 mm aside"):
        read([plane(0.0), aside, plane(6.0)], 3)


def test_cosines_that_are_rounded_differently_are_parallel() -> None:
    rounded = [0.7071, 0.7071, 0, 0, 0, -1]
    exact = [0.70710678, 0.70710678, 0, 0, 0, -1]
    parts = [plane(3.0 * z, orientation=exact if z % 2 else rounded, spacing=(5, 5)) for z in range(4)]
    assert read(parts, 3).pixels.shape == (1, 4, 4, 6)


def copied(**elements: object) -> list[bytes]:
    first = plane(3.0, SOPInstanceUID="1.2.3.4")
    return [plane(0.0), first, plane(6.0), plane(9.0, SOPInstanceUID="1.2.3.4", **elements)]


def test_a_slice_that_is_there_twice_counts_once() -> None:
    parts = [plane(3.0 * z) for z in range(3)]
    np.testing.assert_array_equal(read([*parts, parts[1], parts[2]], 3).pixels, read(parts, 3).pixels)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (copied(), "1 of 4 slices carry the SOPInstanceUID of another one, and hold something else"),
        ([plane(0.0), plane(3.0, SeriesInstanceUID="1.9")], "slices of 2 series for one image: name the folder of one"),
        ([frames(np.array(AXIAL), [0, 1]), frames(np.array(AXIAL), [2, 3])], "2 of them hold several frames"),
        ([plane(0.0), frames(np.array(AXIAL), [0, 1])], "2 files for one image, but 1 of them hold several frames"),
    ],
    ids=["other content", "two series", "two volumes", "a slice and a volume"],
)
def test_files_that_are_no_series_are_refused_as_what_they_are(parts: list[bytes], message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read(parts, 3)


def test_a_part_of_a_multi_frame_object_is_refused() -> None:
    made = dataset(np.zeros((2, 4, 6), np.uint16), Rows=4, Columns=6, NumberOfFrames=2, ConcatenationUID="1.2")
    for total in (None, 3):
        if total:
            made.InConcatenationTotalNumber = total
        for refuse in (inspect, lambda data: read([data], 3)):
            with pytest.raises(Unreadable, match="ConcatenationUID"):
                refuse(encode(made))
    made.InConcatenationTotalNumber = 1
    assert read([encode(made)], 3).pixels.shape == (1, 2, 4, 6)


def test_headers_say_what_a_file_is_a_slice_of() -> None:
    header = inspect(plane(3.0))
    assert (header.series, header.frames, header.orientation) == ("1.2.3", 1, AXIAL)
    for alone in (plane(3.0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), frames(np.array(AXIAL), [0, 1])):
        assert inspect(alone).series == "" and inspect(alone).orientation == ()
    assert inspect(frames(np.array(AXIAL), [0, 1])).frames == 2
    assert inspect(frames(np.array(AXIAL), [0])).orientation == AXIAL
    assert inspect(plane(3.0, ImageOrientationPatient=["NaN", 0, 0, 0, 1, 0])).orientation == ()


def test_a_localizer_is_refused_as_one() -> None:
    scout = plane(3.0, ImageType=["DERIVED", "SECONDARY", "LOCALIZER"])
    with pytest.raises(Unreadable, match=r"a localizer \(ImageType\) of one picture, but the model takes volumes"):
        read([scout], 3)
    assert read([scout], 2).pixels.shape == (1, 4, 6)


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-nooffset"])
def test_a_dicomdir_is_named_for_what_it_is(name: str) -> None:
    with pytest.raises(NoImage, match=r"without pixels \(Media Storage Directory Storage\): leave it out"):
        inspect(shipped(name))


def test_an_image_that_lost_its_pixels_is_damaged() -> None:
    lost: Dataset = dataset(np.zeros((4, 6), np.uint16))
    del lost.Rows, lost.Columns, lost.PixelData
    with pytest.raises(Unreadable, match=r"damaged DICOM, an image without its pixels \(MR Image Storage\)") as error:
        inspect(encode(lost))
    assert not isinstance(error.value, NoImage)
