"""The plane, the letters and the places of an image, held against nibabel's own account of its affine."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from scipy.spatial.transform import Rotation

from tasks.report.anatomy import View, view_of

UNKNOWN = np.full((4, 4), np.nan)
SHAPES = {"z": 6, "y": 8, "x": 10}
PLANES = {"LR": "sagittal", "PA": "coronal", "IS": "axial"}
OPPOSITE = dict(zip("LRPAIS", "RLAPSI", strict=True))


def image(space: str, affine: np.ndarray, voxel: str | None = None) -> xr.Dataset:
    """An image of the store, all zero; `affine` has a column for each name of `voxel`."""
    shape = tuple(SHAPES[dim] for dim in space)
    return xr.Dataset(
        {"image": (("channel", *space), np.zeros((1, *shape))), "affine": (("world", "voxel"), affine)},
        {"voxel": [*(voxel or "zyx"), "1"]},
    )


def affine_of(codes: str, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """An affine whose axes run towards the ends that `codes` names, by nibabel's word for it."""
    affine = np.zeros((4, 4))
    for axis, (code, step) in enumerate(zip(codes, spacing, strict=True)):
        affine["LRPAIS".index(code) // 2, axis] = step if code in "RAS" else -step
    affine[3, 3] = 1
    assert "".join(nib.aff2axcodes(affine)) == codes
    return affine


CODES = ["".join(ends) for axes in permutations(("LR", "PA", "IS")) for ends in product(*axes)]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("space", ["zyx", "xyz"])
def test_of_every_orientation_the_axial_plane_is_shown_with_the_left_on_the_right(codes: str, space: str) -> None:
    affine = affine_of(codes)
    view = view_of(image(space, affine, space))
    assert (view.plane, view.letters, view.oblique) == ("axial", ("A", "L", "P", "R"), False)
    assert view.across is not None and codes[view.across] in "IS"
    index = np.stack(np.indices(view.shape), -1) @ affine[:3, :3].T  # each place's RAS coordinates, but for the origin
    right, anterior, superior = (view.cut(index[..., axis], 2) for axis in range(3))
    assert (np.diff(right, axis=1) < 0).all() and (np.diff(anterior, axis=0) < 0).all() and np.ptp(superior) == 0


@pytest.mark.parametrize("codes", CODES)
def test_thick_slices_are_shown_as_they_were_taken(codes: str) -> None:
    view = view_of(image("zyx", affine_of(codes, (5.0, 1.0, 1.0))))
    assert view.across == 0
    (plane,) = (plane for ends, plane in PLANES.items() if codes[0] in ends)
    assert view.plane == plane
    assert view.title(2) == f"{plane}, slice 3 of 6"
    top, right, bottom, left = view.letters or ("",) * 4
    assert (OPPOSITE[top], OPPOSITE[left]) == (bottom, right)
    assert (top, right) == {"sagittal": ("S", "P"), "coronal": ("S", "L"), "axial": ("A", "L")}[plane]


@pytest.mark.parametrize(("degrees", "said"), [(2, "axial"), (20, "oblique, nearest to axial")])
def test_a_tilted_grid_is_called_oblique(degrees: float, said: str) -> None:
    affine = affine_of("SPL", (3.0, 1.0, 1.0))
    affine[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix() @ affine[:3, :3]
    view = view_of(image("zyx", affine))
    assert (view.plane, view.letters) == (said, ("A", "L", "P", "R"))
    assert view.aspect == pytest.approx(10 / 8)


@pytest.mark.parametrize(("space", "affine"), [("zyx", UNKNOWN), ("xyz", UNKNOWN), ("zyx", np.zeros((4, 4)))])
def test_without_geometry_no_word_is_anatomical(space: str, affine: np.ndarray) -> None:
    view = view_of(image(space, affine, space))
    assert (view.plane, view.letters, view.patient) == ("", None, ())
    assert view.title(0) == "slice 1 of 6 along z"
    assert view.cut(np.zeros(view.shape), 0).shape == (8, 10)  # y runs down, x to the right
    names = " ".join(view.thirds())
    assert "patient" not in names and "the upper left corner of the first slices" in names


@pytest.mark.parametrize(
    ("codes", "plane", "letters", "shape"),
    [
        ("SPL", "axial", ("A", "L", "P", "R"), (8, 10)),
        ("SLP", "axial", ("A", "L", "P", "R"), (10, 8)),
        ("LIP", "sagittal", ("S", "P", "I", "A"), (8, 10)),
        ("ASR", "coronal", ("S", "L", "I", "R"), (8, 10)),
    ],
)
def test_a_slice_by_itself_lies_in_a_plane_too(codes: str, plane: str, letters: tuple[str, ...], shape: object) -> None:
    view = view_of(image("yx", affine_of(codes)))
    assert (view.plane, view.letters, view.title(None), view.across) == (plane, letters, plane, None)
    assert view.cut(np.zeros((8, 10)), None).shape == shape


def test_places_are_named_as_they_are_shown_and_as_the_patient_has_them() -> None:
    view = view_of(image("zyx", affine_of("SPL")))
    places = view.thirds()
    assert len(places) == 27 and (sum(place.astype(int) for place in places.values()) == 1).all()
    corner = places["the upper left corner of the inferior slices (the patient's right anterior)"]
    assert corner[:2, :3, :3].sum() == corner.sum()
    turned = view_of(image("zyx", affine_of("IAR"))).thirds()
    again = turned["the upper left corner of the inferior slices (the patient's right anterior)"]
    assert (again[::-1, ::-1, ::-1] == corner).all()
    assert "the centre of the middle slices" in places
    flat = view_of(image("yx", UNKNOWN)).thirds()
    assert flat["the upper left corner of the image"][:3, :3].all() and flat["the centre of the image"][4, 5]


@pytest.mark.parametrize("size", [1, 2])
def test_an_axis_of_few_places_has_few_thirds(size: int) -> None:
    view = View((size, 9), None, "", 0, 1, (False, False), (1.0, 1.0), (), False)
    assert len(view.thirds()) == 3 * size
