"""Looking at the panels of a case: their pixels, and where a voxel lies on them."""

import base64
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, expect

SECONDS = 60


def eventually(page: Page, claim: Callable[[], None]) -> None:
    """Claim something of what the page shows until it holds: what was fetched or pressed is drawn a moment later."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return claim()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        page.wait_for_timeout(50)


def open_case(page: Page, address: str, image: str, settings: str = "") -> None:
    page.goto(f"{address}/viewer/index.html#/case/{image}?{settings}")
    expect(page.locator(".panel-image canvas").first).to_be_visible()
    page.wait_for_load_state("networkidle")


def panel(page: Page, title: str, plane: str = "") -> Locator:
    """The panel of a title; of a volume in one plane."""
    within = page.get_by_role("region", name=plane, exact=True) if plane else page
    return within.locator(f'.case-panel[data-title="{title}"]')


def pixels(shown: Locator) -> NDArray[np.uint8]:
    """``(row, column, RGB)`` of a panel's canvas."""
    uri = shown.locator("canvas").evaluate("canvas => canvas.toDataURL('image/png')")
    picture: NDArray[np.uint8] = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
    return picture


def expect_colours(
    shown: Locator, expected: NDArray[Any], within: float, places: Any = np.s_[:], spacing: tuple[float, float] = (1, 1)
) -> None:
    """Expect a whole picture, ``(row, column, RGB)`` or grey ``(row, column)``, at some places of a panel."""

    def drawn() -> None:
        found = voxels(shown, expected.shape[:2], spacing).astype(float)
        found = found if expected.ndim == 3 else found[..., 0]
        assert np.abs(found[places] - expected[places]).max() < within

    eventually(shown.page, drawn)


def voxels(shown: Locator, shape: tuple[int, ...], spacing: tuple[float, float] = (1, 1)) -> NDArray[np.uint8]:
    """The colour at the centre of each voxel of a whole picture, by the spacing of rows and columns."""
    picture = pixels(shown)
    rows, columns = _centres(picture.shape[:2], shape, spacing)
    found: NDArray[np.uint8] = picture[np.ix_(rows.astype(int), columns.astype(int))]
    return found


def _centres(
    canvas: tuple[float, ...], shape: tuple[int, ...], spacing: tuple[float, float]
) -> list[NDArray[np.floating]]:
    """Where rows and columns lie on a canvas that holds a picture in its middle, as large as it fits."""
    pitch = min(size / (side * step) for size, side, step in zip(canvas, shape, spacing, strict=True))
    return [
        size / 2 + (np.arange(side) + 0.5 - side / 2) * step * pitch
        for size, side, step in zip(canvas, shape, spacing, strict=True)
    ]


def point(
    shown: Locator, row: int, column: int, shape: tuple[int, ...], spacing: tuple[float, float] = (1, 1)
) -> tuple[float, float]:
    """Where on the page the centre of a voxel of a whole picture lies."""
    shown.locator("canvas").scroll_into_view_if_needed()
    box: Any = shown.locator("canvas").bounding_box()
    rows, columns = _centres((box["height"], box["width"]), shape, spacing)
    return box["x"] + columns[column], box["y"] + rows[row]


def readout(page: Page, title: str) -> Locator:
    """What is told of the voxel under the cursor."""
    return page.locator(".readout div").filter(has=page.locator("dt", has_text=title)).locator("dd").first


def expect_told(page: Page, title: str, value: float) -> None:
    """Expect a value under the cursor, with all the digits of single precision."""

    def told() -> None:
        assert float(readout(page, title).get_attribute("data-value") or "nan") == pytest.approx(value)

    eventually(page, told)
