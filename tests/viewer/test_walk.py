"""A walk of a reader: from the worklist to a case, to a rating that the server keeps, and where none is kept."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tasks.ratings.rating import Rating, folder_of
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.viewer.server import make_app
from tests.tasks.readings import rating_of
from tests.viewer.conftest import Serve, listening

TOKEN = "t0ken-" + "x" * 30
IMAGE = "phantom-00001"


@pytest.fixture
def viewed(demo: Path, tmp_path: Path) -> Iterator[tuple[str, Location]]:
    """A copy of the output, as `cohortlens view` serves it."""
    output = Location(url=str(shutil.copytree(demo, tmp_path / "demo")))
    with listening(make_app(output, TOKEN)) as address:
        yield f"{address}/{TOKEN}/demo/viewer/index.html", output


def saved(output: Location, image: str = IMAGE) -> list[Rating]:
    folder = output / folder_of(image)
    return [Rating.model_validate_json((folder / name).read()) for name in folder.names()]


def test_a_reader_walks_from_the_worklist_to_a_rating(page: Page, viewed: tuple[str, Location]) -> None:
    address, output = viewed
    page.goto(f"{address}#/worklist?search={IMAGE}")
    page.get_by_role("link", name=IMAGE).click()
    expect(page.get_by_role("heading", level=1, name=IMAGE)).to_be_visible()
    expect(page).to_have_title(re.compile(f"^{IMAGE}"))  # it is set by whatever leads the focus to the heading
    page.get_by_label("Your pseudonym").wait_for(state="attached")
    page.keyboard.press("r")
    expect(page.get_by_label("Your pseudonym")).to_be_focused()
    page.keyboard.type("reader-a")
    page.get_by_role("group", name="The prediction").get_by_label("agree", exact=True).check()
    page.get_by_role("group", name="What the maps show").get_by_label("unsure").focus()
    page.keyboard.press("d")
    page.get_by_role("checkbox", name="gradcam").check()
    page.get_by_role("checkbox", name="saliency").check()
    page.get_by_role("button", name="From the reference").click()
    page.get_by_label("Comment").fill("<b>the border</b>")
    page.get_by_label("How sure you are").select_option("75 %")
    page.get_by_role("button", name="Save the rating").click()
    expect(page.get_by_text("The rating is saved.")).to_be_visible()
    (rating,) = saved(output)
    row = int(np.flatnonzero(open_store(output)["image_id"].values == IMAGE)[0])
    assert rating.seen.model_dump() == Rating.model_validate(rating_of(output, row)).seen.model_dump()
    assert (rating.rater, rating.prediction, rating.explanation) == ("reader-a", "agree", "disagree")
    assert (rating.helps, rating.confidence, rating.comment) == (("gradcam", "saliency"), 0.75, "<b>the border</b>")
    assert rating.region is not None
    np.testing.assert_array_equal(rating.region.mask, open_store(output)["mask"].values[row] == 1)
    expect(page.get_by_text("You have rated this case before")).to_be_visible()


def test_a_region_is_drawn_by_pointer_and_keys_and_taken_back(page: Page, viewed: tuple[str, Location]) -> None:
    address, output = viewed
    page.goto(f"{address}#/case/{IMAGE}?explainers=saliency")
    expect(page.get_by_role("img", name="saliency").first).to_be_visible()
    page.get_by_label("Your pseudonym").wait_for(state="attached")
    page.keyboard.press("r")
    page.get_by_role("button", name="Brush").click()
    page.wait_for_load_state("networkidle")  # what comes later moves the layer
    layer = page.get_by_role("img", name="Region, brush").first
    box = layer.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.45 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.45 * box["height"], steps=5)
    page.mouse.up()
    told = page.get_by_text("The region has")
    stroke = told.inner_text()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    expect(told).not_to_have_text(stroke)
    page.keyboard.press("Control+z")
    expect(told).to_have_text(stroke)
    page.get_by_role("button", name="Save the rating").click()
    expect(page.get_by_text("The rating is saved.")).to_be_visible()
    (rating,) = saved(output)
    assert rating.region is not None
    rows, columns = np.nonzero(rating.region.mask)
    height, width = rating.region.mask.shape
    assert abs(rows.mean() / height - 0.45) < 0.02
    assert abs(columns.min() / width - 0.3) < 0.06 and abs(columns.max() / width - 0.7) < 0.06


@pytest.mark.parametrize(("settings", "count"), [("", 3), ("mode=overlay", 1)])
def test_a_rating_names_the_maps_that_are_on_the_screen(
    page: Page, viewed: tuple[str, Location], settings: str, count: int
) -> None:
    address, output = viewed
    page.goto(f"{address}#/case/{IMAGE}?{settings}")
    page.get_by_label("Your pseudonym").wait_for(state="attached")
    page.keyboard.press("r")
    page.get_by_role("button", name="Save the rating").click()
    expect(page.get_by_text("The rating is saved.")).to_be_visible()
    (rating,) = saved(output)
    panels = page.locator(".case-panel:not([data-title='image']) figcaption").all_inner_texts()
    assert list(rating.shown) == panels and len(panels) == count


def test_where_nobody_takes_ratings_they_are_downloaded(page: Page, serve: Serve, demo: Path, tmp_path: Path) -> None:
    page.goto(f"{serve(demo)}/viewer/index.html#/case/{IMAGE}")
    page.get_by_role("heading", name="Rate this case").click()
    page.get_by_role("button", name="There is no finding").click()
    page.get_by_role("button", name="Save the rating").click()
    expect(page.get_by_text("Nobody takes ratings here")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rating").click()
    download.value.save_as(tmp_path / "rating.json")
    rating = Rating.model_validate(json.loads((tmp_path / "rating.json").read_text()))
    assert download.value.suggested_filename == f"{rating.id}.json"
    assert rating.region is not None and not rating.region.runs and rating.rater == ""


def test_what_a_server_refuses_is_said(page: Page, viewed: tuple[str, Location]) -> None:
    address, output = viewed
    page.goto(f"{address}#/case/{IMAGE}")
    page.get_by_label("Your pseudonym").wait_for(state="attached")
    commit = output / "commits/000000.json"
    content = json.loads(commit.read())
    page.route("**/commits/*.json", lambda route: route.fulfill(json=content | {"rows": ["0" * 16] * 99}))
    page.keyboard.press("r")
    page.get_by_role("button", name="Save the rating").click()
    expect(page.get_by_text("The rating was not taken: 409")).to_contain_text("load the page again")
    assert not saved(output)
