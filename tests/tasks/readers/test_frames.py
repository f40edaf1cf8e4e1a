"""Frames of a file, one at a time or as channels, held against the libraries that read whole files."""

import gzip
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import skimage
import tifffile
from nibabel.testing import data_path
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.pixels import pixel_array

from tasks.cohort.readers import inspect, read, read_mask
from tasks.cohort.reading import Counts, Unreadable
from tests.tasks.readers.test_dicom import dataset, encode, item, shipped
from tests.tasks.readers.test_tiff import tiff

FUNCTIONAL, EXAMPLE = Path(data_path) / "functional.nii", Path(data_path) / "example4d.nii.gz"
CINE, DOSE, RLE = "examples_ybr_color.dcm", "rtdose.dcm", "SC_rgb_rle_2frame.dcm"
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
RNG = np.random.default_rng(3)


def volumes_of(path: Path) -> NDArray[np.float32]:
    """Read ``(time, z, y, x)`` by nibabel."""
    return nibabel.load(path).get_fdata().T.astype(np.float32)


def enhanced(times: Sequence[int], heights: Sequence[float], **elements: object) -> tuple[bytes, NDArray[np.uint16]]:
    """Encode frames of 4 x 5, each at a time point and at a height in mm."""
    frames = RNG.integers(0, 4096, (len(times), 4, 5)).astype(np.uint16)
    made = dataset(frames, Rows=4, Columns=5, NumberOfFrames=len(times), **elements)
    made.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[2, 0.5], SliceThickness=3)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[item(TemporalPositionIndex=time)],
            PlanePositionSequence=[item(ImagePositionPatient=[10, 20, 30 + height])],
        )
        for time, height in zip(times, heights, strict=True)
    ]
    return encode(made), frames


@pytest.mark.parametrize("path", [FUNCTIONAL, EXAMPLE], ids=["plain", "gzip"])
def test_volumes_and_slices_of_a_4d_nifti_are_those_of_nibabel(path: Path) -> None:
    data, expected, affine = path.read_bytes(), volumes_of(path), nibabel.load(path).affine
    times, slices = expected.shape[:2]
    assert inspect(data).counts == Counts(times * slices, times)
    for time in (0, times - 1):
        found = read([data], 3, frames="images", frame=time + 1)
        np.testing.assert_array_equal(found.pixels, expected[time][None])
        assert found.affine is not None
        np.testing.assert_allclose(found.affine @ [2, 1, 3, 1], affine @ [3, 1, 2, 1], atol=1e-4)
        for place in (0, slices - 1):
            found = read([data], 2, frames="images", frame=time * slices + place + 1)
            np.testing.assert_array_equal(found.pixels, expected[time, place][None])
            assert found.affine is not None
            np.testing.assert_allclose(found.affine @ [0, 1, 3, 1], affine @ [3, 1, place, 1], atol=1e-4)


def test_volumes_or_slices_are_channels() -> None:
    data, expected = FUNCTIONAL.read_bytes(), volumes_of(FUNCTIONAL)
    np.testing.assert_array_equal(read([data], 3, frames="channels").pixels, expected)
    np.testing.assert_array_equal(read([data], 3).pixels, expected)
    anatomical = Path(data_path) / "anatomical.nii"
    slices = read([anatomical.read_bytes()], 2, frames="channels")
    assert slices.pixels.shape == (25, 41, 33) and slices.affine is not None
    np.testing.assert_array_equal(slices.pixels, nibabel.load(anatomical).get_fdata().T)
    np.testing.assert_allclose(
        slices.affine @ [0, 4, 5, 1], nibabel.load(anatomical).affine @ [5, 4, 12, 1], atol=1e-4
    )  # the middle one's


def test_a_gzip_that_is_damaged_behind_the_frame_is_found() -> None:
    whole = gzip.decompress(EXAMPLE.read_bytes())
    cut = gzip.compress(whole[: 416 + 2 * 128 * 96 * 24 + 8])
    with pytest.raises(Unreadable, match=r"declares pixels of 1180064 bytes and holds 590248"):
        read([cut], 3, frames="images", frame=1)
    packed = bytearray(EXAMPLE.read_bytes())
    packed[-8] ^= 1  # its checksum
    with pytest.raises(Unreadable, match="damaged"):
        read([bytes(packed)], 3, frames="images", frame=1)


@pytest.mark.parametrize("name", [CINE, DOSE, RLE])
def test_frames_of_dicom_are_those_of_pydicom(name: str) -> None:
    data = shipped(name)
    source = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    expected = pixel_array(source).astype(np.float32)
    expected = (expected[..., None] if expected.ndim == 3 else expected).transpose(0, 3, 1, 2)
    expected = expected * float(source.get("DoseGridScaling", 1))
    assert inspect(data).counts == Counts(len(expected), 1)
    for number in (1, len(expected)):
        np.testing.assert_allclose(
            read([data], 2, frames="images", frame=number).pixels, expected[number - 1], rtol=1e-6
        )
    as_channels = read([data], 2, frames="channels").pixels
    np.testing.assert_allclose(as_channels, expected.reshape(-1, *expected.shape[2:]), rtol=1e-6)


def test_time_points_of_an_enhanced_object_are_volumes() -> None:
    times, heights = [2, 1, 1, 2, 3, 3], [0.0, 3.0, 0.0, 3.0, 3.0, 0.0]
    data, frames = enhanced(times, heights)
    by_time = {1: [2, 1], 2: [0, 3], 3: [5, 4]}  # in the order of their heights
    assert inspect(data).counts == Counts(6, 3)
    for time, places in by_time.items():
        found = read([data], 3, frames="images", frame=time)
        np.testing.assert_array_equal(found.pixels[0], frames[places])
        assert found.affine is not None
        np.testing.assert_allclose(found.affine @ [1, 1, 2, 1], [-11, -22, 33, 1])
    channels = read([data], 3, frames="channels")
    np.testing.assert_array_equal(channels.pixels, [frames[places] for places in by_time.values()])
    with pytest.raises(Unreadable, match="two slices lie at the same position"):
        read([data], 3)
    uneven, _ = enhanced([1, 1, 2], [0.0, 3.0, 0.0])
    assert inspect(uneven).counts == Counts(3, 1)


def test_an_inverted_object_as_channels_has_one_brightness() -> None:
    data, frames = enhanced([1, 2], [0.0, 0.0], PhotometricInterpretation="MONOCHROME1")
    found = read([data], 2, frames="channels").pixels
    np.testing.assert_array_equal(found, frames.min() + frames.max() - frames.astype(np.float32))


@pytest.mark.parametrize("name", ["multipage.tif", "multipage_rgb.tif"])
def test_pages_are_those_of_tifffile(name: str) -> None:
    path = Path(skimage.__file__).parent / "data" / name
    pages = tifffile.imread(path).astype(np.float32)
    expected = pages.reshape(2, -1, *pages.shape[-2:])
    assert inspect(path.read_bytes()).counts == Counts(2, 1)
    for number in (1, 2):
        found = read([path.read_bytes()], 2, frames="images", frame=number).pixels
        np.testing.assert_array_equal(found, expected[number - 1])
    found = read([path.read_bytes()], 2, frames="channels").pixels
    np.testing.assert_array_equal(found, expected.reshape(-1, *expected.shape[2:]))


def test_a_mask_is_read_frame_by_frame() -> None:
    frames = RNG.integers(0, 2, (3, 6, 7)).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(tiff(frames), 2, frame=2).pixels[0], frames[1])
    np.testing.assert_array_equal(read_mask(tiff(frames), 2).pixels[0], frames)


def as_nifti(frames: NDArray[np.uint16]) -> bytes:
    return bytes(nibabel.Nifti1Image(frames[:, None].T, np.eye(4)).to_bytes())


def as_dicom(frames: NDArray[np.uint16]) -> bytes:
    count, rows, columns = frames.shape
    return encode(dataset(frames, 16, Rows=rows, Columns=columns, NumberOfFrames=count))


@pytest.mark.parametrize("encoded", [as_nifti, as_dicom, tiff])
def test_a_frame_takes_the_memory_of_a_frame(encoded: Callable[[NDArray[np.uint16]], bytes]) -> None:
    frames = RNG.integers(0, 4096, (64, 128, 128)).astype(np.uint16)
    data, size = encoded(frames), frames[0].size * 4
    with pytest.raises(Unreadable, match="declares pixels"):
        read([data], 3, largest=2 * size)
    read([data], 2, largest=size, frames="images", frame=64)
    tracemalloc.start()
    try:
        found = read([data], 2, largest=size, frames="images", frame=64)
        beside_the_file = tracemalloc.get_traced_memory()[1] - len(data)
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.pixels[0], frames[63])
    assert beside_the_file < len(data)
