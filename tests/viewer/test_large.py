"""A hundred thousand images: what the first screen and a case take is counted in bytes and requests."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.viewer.conftest import Serve, watched
from tests.viewer.large import make_large

IMAGES = 100_000
MOST_BYTES = 10**6

pytestmark = pytest.mark.timeout(900)  # the output is made in half a minute, on a machine that has nothing else to do


class Traffic:
    """The requests of a page that were answered."""

    def __init__(self, page: Page) -> None:
        self._requests: list[Request] = []
        page.on("requestfinished", self._keep)

    def _keep(self, request: Request) -> None:
        self._requests.append(request)

    def check(self, most_bytes: float, most_requests: int) -> None:
        """Check what has come in so far, once nothing more does."""
        self._requests[0].frame.page.wait_for_load_state("networkidle")
        told = {
            f"{number} {request.url.rpartition('/')[2]} {request.headers.get('range', '')}": request.sizes()
            for number, request in enumerate(self._requests)
        }
        received = sum(max(0, sizes["responseBodySize"]) for sizes in told.values())
        assert received < most_bytes and len(told) < most_requests, (received, told)


@pytest.fixture(scope="module")
def large(demo: Path, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """The address of the page of a large output, and the ids of its images."""
    output = tmp_path_factory.mktemp("large") / "output"
    ids = make_large(demo, output, IMAGES)
    return f"{serve(output)}/viewer/index.html", ids


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a reader who comes for the first time: what the browser has kept would not be counted."""
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context, watched(context) as page:
        yield page


@pytest.fixture
def traffic(page: Page) -> Traffic:
    return Traffic(page)


def test_the_first_screen_with_its_pictures(
    page: Page,
    large: tuple[str, list[str]],
    traffic: Traffic,
    record_property: Callable[[str, object], None],
) -> None:
    address, ids = large
    began = time.perf_counter()
    page.goto(address)
    expect(page.locator(".grid canvas").first).to_have_attribute("width", "96")
    record_property("seconds to the first picture", time.perf_counter() - began)
    expect(page.locator(".count")).to_have_text("100,000 images")
    expect(page.get_by_role("link", name=ids[0])).to_be_visible()
    traffic.check(MOST_BYTES, 50)


def test_the_last_image_is_reached_by_the_scroll_bar_and_by_keys(page: Page, large: tuple[str, list[str]]) -> None:
    address, ids = large
    page.goto(address)
    grid = page.get_by_role("grid")
    grid.press("End")
    expect(page.get_by_role("link", name=ids[-1])).to_be_visible()
    grid.press("ArrowUp")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text(ids[-2])
    grid.press("Home")
    expect(page.get_by_role("link", name=ids[0])).to_be_visible()
    grid.evaluate("grid => grid.scrollTo(0, grid.scrollHeight)")
    expect(page.get_by_role("link", name=ids[-1])).to_be_visible()


def test_the_last_case(page: Page, large: tuple[str, list[str]], traffic: Traffic) -> None:
    address, ids = large
    page.goto(f"{address}#/case/{ids[-1]}")
    expect(page.get_by_role("main")).to_contain_text(ids[-1])
    traffic.check(MOST_BYTES, 60)


def test_a_filter_reads_its_column_alone(page: Page, large: tuple[str, list[str]], traffic: Traffic) -> None:
    address, _ = large
    page.goto(f"{address}#/worklist?filter=probability/lesion:min:0.75&pictures=no")
    expect(page.locator(".count")).to_have_text(re.compile(r"^2[45],\d{3} of 100,000 images$"))
    traffic.check(2.5 * MOST_BYTES, 60)
