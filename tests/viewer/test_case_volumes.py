"""The case view on volumes: three planes by the affine, linked by the crosshair, in the patient's proportions."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tasks.report.pictures import Scale
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.viewer.scales import NAME as SCALES
from tests.viewer.conftest import Serve
from tests.viewer.looking import eventually, expect_told, open_case, panel, pixels, point, readout, voxels
from tests.viewer.stores import write_store

SHAPE = (4, 20, 14)
"""Few thick slices, in the order of the store: z, y, x."""

# z towards the head, 5 mm apart; y towards the back, 1 mm; x towards the left, 2 mm: as an axial scan is stored.
AFFINE = np.array([[0, 0, -2, 30], [0, -1, 0, 40], [5, 0, 0, -10], [0, 0, 0, 1]], float)
PEAK = (2, 5, 3)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One volume whose map has its peak in a voxel, and one with a mask of two labels, and no geometry."""
    random = np.random.default_rng(0)
    image = random.uniform(0, 1, (2, 1, *SHAPE)).astype(np.float32)
    maps = random.uniform(-0.1, 0.1, (2, 1, 1, *SHAPE)).astype(np.float32)
    maps[:, :, :, *PEAK] = 1
    mask = np.full((2, *SHAPE), 255)
    mask[1] = 0
    mask[1, 1, 4:9, 3:7] = 1
    mask[1, 1, 12:15, 3:7] = 2
    affine = np.stack([AFFINE, np.full((4, 4), np.nan)])
    folder = tmp_path_factory.mktemp("volume")
    write_store(folder, {"image": image, "attribution": maps, "mask": mask, "affine": affine})
    return folder


# Row and column of a voxel in each plane, sides, spacing: the patient's right, anterior and superior are first.
PLANES = {
    "axial": (lambda z, y, x: (y, x), (20, 14), (1, 2)),
    "coronal": (lambda z, y, x: (SHAPE[0] - 1 - z, x), (4, 14), (5, 2)),
    "sagittal": (lambda z, y, x: (SHAPE[0] - 1 - z, y), (4, 20), (5, 1)),
}


@pytest.mark.parametrize("plane", PLANES)
def test_the_crosshair_opens_at_the_peak_and_the_peak_is_drawn_there(
    page: Page, serve: Serve, volume: Path, plane: str
) -> None:
    place, *shape = PLANES[plane]
    open_case(page, serve(volume), "case-0", "mode=beside&explainers=map0")
    expect(readout(page, "voxel z, y, x")).to_have_text(", ".join(map(str, PEAK)))
    expect(readout(page, "place in mm")).to_have_text("R 24.0, A 35.0, S 0.0")
    expect_told(page, "map0", 1)
    maps = open_store(Location(url=str(volume)))["attribution"][0, 0, 0].values
    scale = json.loads((volume / SCALES).read_text())["scales"]["attribution"]["map0"]
    at = {"axial": maps[PEAK[0]], "coronal": maps[::-1, PEAK[1]], "sagittal": maps[::-1, :, PEAK[2]]}[plane]
    expected = 255 * Scale("map0", scale["limit"], scale["signed"]).colours(at)
    assert at[place(*PEAK)] == 1

    def drawn() -> None:
        agree = np.abs(voxels(panel(page, "map0", plane), *shape) - expected).max(-1) < 5
        assert agree[place(*PEAK)]
        assert agree.mean() > 0.7  # the crosshair, letters and the scale bar lie over the others

    eventually(page, drawn)


def test_the_letters_are_those_of_the_radiological_convention(page: Page, serve: Serve, volume: Path) -> None:
    open_case(page, serve(volume), "case-0")
    for plane, letters in (
        ("axial", "A on top, L on the right, P below, R on the left"),
        ("coronal", "S on top, L on the right, I below, R on the left"),
        ("sagittal", "S on top, P on the right, I below, A on the left"),
    ):
        canvas = panel(page, "map0", plane).locator("canvas")
        expect(canvas).to_have_attribute("aria-label", re.compile(letters))


@pytest.mark.parametrize(("plane", "aspect"), [("axial", 28 / 20), ("coronal", 28 / 20), ("sagittal", 20 / 20)])
def test_panels_have_the_patients_proportions(
    page: Page, serve: Serve, volume: Path, plane: str, aspect: float
) -> None:
    open_case(page, serve(volume), "case-0", "mode=beside")

    def drawn() -> None:
        height, width = pixels(panel(page, "image", plane)).shape[:2]
        assert width / height == pytest.approx(aspect, rel=0.01)

    eventually(page, drawn)


def test_a_click_in_one_plane_moves_the_slices_of_the_others(page: Page, serve: Serve, volume: Path) -> None:
    open_case(page, serve(volume), "case-0")
    place, *shape = PLANES["axial"]
    page.mouse.click(*point(panel(page, "map0", "axial"), *place(2, 11, 9), *shape))
    for plane, text in (("axial", "slice 3 of 4"), ("coronal", "slice 12 of 20"), ("sagittal", "slice 10 of 14")):
        expect(page.get_by_role("region", name=plane, exact=True)).to_contain_text(text)
    place, *shape = PLANES["sagittal"]
    page.mouse.move(*point(panel(page, "map0", "sagittal"), *place(0, 7, 9), *shape))
    expect(readout(page, "voxel z, y, x")).to_have_text("0, 7, 9")


def test_slices_are_scrolled_by_wheel_keys_and_slider(page: Page, serve: Serve, volume: Path) -> None:
    open_case(page, serve(volume), "case-0", "z=1&y=5&x=3")
    axial = page.get_by_role("region", name="axial", exact=True)
    axial.locator("canvas").hover()
    page.mouse.wheel(0, 60)
    expect(axial).to_contain_text("slice 3 of 4")
    axial.locator("canvas").focus()
    page.keyboard.press("PageDown")
    expect(axial).to_contain_text("slice 4 of 4")
    page.keyboard.press("ArrowDown")
    page.mouse.move(0, 0)
    expect(page.locator(".readout")).to_contain_text("3, 6, 3")
    axial.get_by_role("slider").fill("0")
    expect(axial).to_contain_text("slice 1 of 4")


def test_every_label_of_a_mask_has_its_outline_along_the_edges_of_voxels(
    page: Page, serve: Serve, volume: Path
) -> None:
    open_case(page, serve(volume), "case-1", "mode=beside&planes=across z&explainers=map0")
    expect(page.get_by_text("The image has no geometry")).to_be_visible()
    expect(page.get_by_text("slice 2 of 4")).to_be_visible()  # most of the mask

    def drawn() -> None:
        picture = pixels(panel(page, "image"))
        pitch = picture.shape[0] / SHAPE[1]
        left = picture.shape[1] / 2 - pitch * SHAPE[2] / 2
        for first, last, colour in ((4, 9, (0, 229, 160)), (12, 15, (86, 180, 233))):
            for row, column in ((first, 5.5), (last, 5.5), (first + 1.5, 3), (first + 1.5, 7)):
                down, right = round(row * pitch), round(left + column * pitch)
                near = picture[down - 1 : down + 2, right - 1 : right + 2].reshape(-1, 3).astype(int)
                assert np.abs(near - colour).sum(1).min(initial=999) < 60

    eventually(page, drawn)
