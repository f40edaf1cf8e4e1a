"""The case view on the demo in two dimensions: what is drawn is what the store holds."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from nibabel.orientations import aff2axcodes
from playwright.sync_api import Browser, Page, expect

from tasks.report.anatomy import view_of
from tasks.report.pictures import Scale
from tasks.storage.location import Location
from tasks.store.objects import NAME
from tasks.store.template import EXPLAINED, open_store
from tasks.viewer.scales import NAME as SCALES
from tests.viewer.conftest import Serve
from tests.viewer.looking import eventually, expect_colours, expect_told, open_case, panel, pixels, point, readout

CASE = "phantom-00001"
INNER = np.s_[14:-14, 10:-10]
"""The places of a picture that hold no letters and no scale bar."""


@pytest.fixture
def stored(demo: Path) -> xr.Dataset:
    return open_store(Location(url=str(demo))).sel(image_id=CASE).load()


@pytest.mark.parametrize("explainer", ["saliency", "gradcam"])
def test_a_map_has_the_colours_of_the_report_at_every_voxel(
    page: Page, serve: Serve, demo: Path, stored: xr.Dataset, explainer: str
) -> None:
    open_case(page, serve(demo), CASE, f"explainers={explainer}&mask=0")
    values = view_of(stored).cut(stored["attribution"].sel(explainer=explainer)[0].values, None)
    scale = json.loads((demo / SCALES).read_text())["scales"]["attribution"][explainer]
    expected = 255 * Scale(explainer, scale["limit"], scale["signed"]).colours(values)
    expect_colours(panel(page, explainer), expected, 5, INNER)


def test_the_image_is_drawn_with_its_window_and_the_map_over_it(
    page: Page, serve: Serve, demo: Path, stored: xr.Dataset
) -> None:
    address = serve(demo)
    picture = view_of(stored).cut(stored["image"][0].values, None)
    low, high = np.percentile(picture, (0.5, 99.5))
    grey = np.clip((picture - low) / (high - low), 0, 1)
    open_case(page, address, CASE, "mask=0&mode=beside")
    expect_colours(panel(page, "image"), 255 * grey, 3, INNER)
    page.goto("about:blank")
    open_case(page, address, CASE, "mask=0&mode=overlay&explainers=saliency&opacity=0.5")
    expect(panel(page, "saliency").locator(".legend")).to_be_visible()
    values = view_of(stored).cut(stored["attribution"].sel(explainer="saliency")[0].values, None)
    scale = json.loads((demo / SCALES).read_text())["scales"]["attribution"]["saliency"]
    strength = 0.5 * np.clip(np.abs(values) / scale["limit"], 0, 1)[..., None]
    colours = Scale("saliency", scale["limit"], scale["signed"]).colours(values)
    expected = 255 * ((1 - strength) * grey[..., None] + strength * colours)
    expect_colours(panel(page, "saliency"), expected, 6, INNER)


def test_values_under_the_cursor_are_the_stores(page: Page, serve: Serve, demo: Path, stored: xr.Dataset) -> None:
    open_case(page, serve(demo), CASE, "explainers=saliency,gradcam")
    view = view_of(stored)
    values = stored["attribution"].sel(explainer="gradcam")[0].values
    y, x = np.unravel_index(values.argmax(), values.shape)
    marked = np.zeros(values.shape)
    marked[y, x] = 1
    row, column = np.argwhere(view.cut(marked, None))[0]
    page.mouse.move(*point(panel(page, "saliency"), row, column, view.cut(marked, None).shape))
    expect(readout(page, "voxel y, x")).to_have_text(f"{y}, {x}")
    expect_told(page, "gradcam", float(values.max()))
    expect_told(page, "saliency", float(stored["attribution"].sel(explainer="saliency")[0].values[y, x]))
    expect_told(page, "image", float(stored["image"][0].values[y, x]))
    place = stored["affine"].values @ [0, y, x, 1]
    words = [f"{letters[int(mm < 0)]} {abs(mm):.1f}" for letters, mm in zip(("RL", "AP", "SI"), place, strict=False)]
    expect(readout(page, "place in mm")).to_have_text(", ".join(words))


@pytest.mark.parametrize("turned", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_letters_follow_the_affine(
    page: Page, serve: Serve, demo: Path, tmp_path: Path, turned: tuple[int, int]
) -> None:
    shutil.copytree(demo, tmp_path / "out")
    affine = np.zeros((4, 4))
    affine[2, 0] = affine[3, 3] = 1
    affine[1, 1], affine[0, 2] = turned  # y along A, x along R
    _replace_affine(tmp_path / "out", affine)
    open_case(page, serve(tmp_path / "out"), CASE, "explainers=gradcam&mask=0")
    along_x, along_y, _ = aff2axcodes(affine[:, [2, 1, 0, 3]])
    assert (along_x == "R", along_y == "A") == (turned[1] > 0, turned[0] > 0)
    expect(panel(page, "gradcam").locator("canvas")).to_have_attribute(
        "aria-label", re.compile("A on top, L on the right, P below, R on the left")
    )
    stored = (
        open_store(Location(url=str(tmp_path / "out"))).sel(image_id=CASE)["attribution"].sel(explainer="gradcam")[0]
    )
    upright = stored.values[:: -turned[0], :: -turned[1]]  # anterior first, right first
    scale = json.loads((demo / SCALES).read_text())["scales"]["attribution"]["gradcam"]
    expected = 255 * Scale("gradcam", scale["limit"], scale["signed"]).colours(upright)
    expect_colours(panel(page, "gradcam"), expected, 5, INNER)


def _replace_affine(output: Path, affine: np.ndarray) -> None:
    array = zarr.open_array(output / NAME / "affine", mode="r+")
    array[1] = affine


def test_without_geometry_there_are_no_letters_and_the_page_says_so(
    page: Page, serve: Serve, demo: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo, tmp_path / "out")
    _replace_affine(tmp_path / "out", np.full((4, 4), np.nan))
    open_case(page, serve(tmp_path / "out"), CASE)
    expect(page.get_by_text("The image has no geometry")).to_be_visible()
    expect(panel(page, "image").locator("canvas")).not_to_have_attribute("aria-label", re.compile("on top"))
    expect(readout(page, "place in mm")).to_have_text(re.compile("^not known"))


def test_the_address_follows_what_is_set_and_sets_it(page: Page, serve: Serve, demo: Path) -> None:
    address = serve(demo)
    open_case(page, address, CASE)
    page.get_by_role("button", name="Over the image").click()
    page.get_by_label("opacity").fill("0.35")
    page.get_by_role("button", name="Larger").click()
    page.get_by_role("spinbutton", name="level").fill("0.25")
    page.get_by_role("spinbutton", name="level").press("Enter")
    page.keyboard.press("Tab")
    expect(page).to_have_url(re.compile("window=0.25"))
    for setting in ("mode=overlay", "opacity=0.35", "zoom=1.25"):
        expect(page).to_have_url(re.compile(re.escape(setting)))
    settings = page.evaluate("location.hash")
    page.goto("about:blank")
    page.goto(f"{address}/viewer/index.html{settings}")
    expect(page.get_by_label("opacity")).to_have_value("0.35")
    expect(page.get_by_role("spinbutton", name="level")).to_have_value("0.25")
    expect(page.get_by_text("125 %")).to_be_visible()


def test_zoom_and_pan_are_the_same_in_all_panels(page: Page, serve: Serve, demo: Path) -> None:
    open_case(page, serve(demo), CASE, "explainers=saliency,gradcam&mask=0")
    shown = panel(page, "saliency").locator("canvas")
    eventually(page, lambda: _differs(pixels(panel(page, "gradcam")).reshape(-1, 3)[0], pixels(panel(page, "gradcam"))))
    before = pixels(panel(page, "gradcam"))
    shown.hover(position={"x": 60, "y": 60})
    page.mouse.wheel(0, -400)
    expect(page).to_have_url(re.compile("zoom="))
    eventually(page, lambda: _differs(before, pixels(panel(page, "gradcam"))))
    page.get_by_role("button", name="Whole image").click()
    page.mouse.move(0, 0)
    expect(page.get_by_label("Smaller").locator("xpath=following-sibling::output")).to_have_text("100 %")
    eventually(page, lambda: np.testing.assert_array_equal(before, pixels(panel(page, "gradcam"))))


def _differs(before: np.ndarray, now: np.ndarray) -> None:
    assert np.any(before != now)


def test_keys_open_the_next_case_and_the_one_before(page: Page, serve: Serve, demo: Path) -> None:
    open_case(page, serve(demo), CASE, "mode=overlay")
    expect(page.get_by_role("link", name="Next")).to_be_visible()
    page.keyboard.press("j")
    expect(page.get_by_role("heading", name="phantom-00002")).to_be_visible()
    expect(page).to_have_url(re.compile("mode=overlay"))
    expect(page.get_by_role("link", name="Before")).to_be_visible()
    page.keyboard.press("k")
    expect(page.get_by_role("heading", name=CASE)).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next case")


def test_a_key_that_is_pressed_on_sight_of_the_case_is_followed(page: Page, serve: Serve, demo: Path) -> None:
    page.add_init_script("""new MutationObserver((_, observer) => {
        if (!document.querySelector("main.case h1")) return;
        observer.disconnect();
        dispatchEvent(new KeyboardEvent("keydown", { key: "?" }));
    }).observe(document, { childList: true, subtree: true })""")
    open_case(page, serve(demo), CASE)
    expect(page.get_by_role("dialog")).to_contain_text("next case")


def test_what_is_known_of_the_case_is_beside_it(page: Page, serve: Serve, demo: Path, stored: xr.Dataset) -> None:
    open_case(page, serve(demo), CASE)
    expect(page.get_by_label("Status")).to_contain_text(f"label{stored['label'].values}")
    beside = page.get_by_role("complementary")
    expect(beside).to_contain_text(f"{100 * float(stored['probability'][1]):.1f} %")
    gini = float(stored["metric_gini"].sel(explainer="gradcam")[0])
    expect(beside.get_by_role("row", name="gradcam")).to_contain_text(f"{gini:.3g}")


def test_an_image_that_was_set_aside_says_why(page: Page, serve: Serve, demo: Path) -> None:
    dataset = open_store(Location(url=str(demo)))
    left_out = str(dataset["image_id"].values[dataset["status"].values != EXPLAINED][0])
    page.goto(f"{serve(demo)}/viewer/index.html#/case/{left_out}")
    expect(page.get_by_text("The reason:")).to_be_visible()


def test_a_damaged_map_is_named_and_the_others_are_shown(page: Page, serve: Serve, demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "out")
    maps = tmp_path / "out" / NAME / "attribution/c/0/0"
    damaged = (maps / "0/0/0").read_bytes()
    (maps / "0/0/0").write_bytes(b"\xff" * (len(damaged) // 2) + damaged[len(damaged) // 2 :])
    (maps / "1/0/0").unlink()
    open_case(page, serve(tmp_path / "out"), CASE)
    expect(panel(page, "saliency").get_by_role("alert")).to_contain_text("cohortlens verify --repair")
    expect(panel(page, "input_x_gradient").get_by_role("alert")).to_contain_text("is not there")
    expect(panel(page, "gradcam").locator("canvas")).to_be_visible()


def test_a_case_is_printed_on_one_page(page: Page, serve: Serve, demo: Path) -> None:
    open_case(page, serve(demo), CASE)
    expect(panel(page, "gradcam").locator("canvas")).to_be_visible()
    printed = page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1


def test_a_finger_sets_the_crosshair_on_a_phone_and_nothing_is_wider_than_it(
    browser: Browser, serve: Serve, demo: Path
) -> None:
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    open_case(page, serve(demo), CASE)
    before = readout(page, "voxel y, x").inner_text()
    page.touchscreen.tap(*point(panel(page, "image"), 20, 20, (112, 96)))
    expect(readout(page, "voxel y, x")).not_to_have_text(before)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    expect(page.get_by_role("toolbar")).to_be_hidden()
    page.get_by_text("Settings of the view").click()
    expect(page.get_by_role("toolbar")).to_be_visible()
    phone.close()


def test_only_what_is_shown_is_fetched_and_once(page: Page, serve: Serve, demo: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.headers.get('range')}"))
    open_case(page, serve(demo), CASE, "explainers=gradcam")
    expect(panel(page, "gradcam").locator("canvas")).to_be_visible()
    maps = [one for one in asked if "/attribution/c/" in one]
    assert len(maps) == 2 and all("/attribution/c/0/0/2/" in one for one in maps)  # the index of its shard, and the map
    page.get_by_role("button", name="Larger").click()
    page.get_by_text("1 of 6 maps").click()
    page.get_by_role("checkbox", name="saliency").check()
    expect(panel(page, "saliency").locator("canvas")).to_be_visible()
    page.wait_for_load_state("networkidle")
    maps = [one for one in asked if "/attribution/c/" in one]
    assert len(maps) == 4 == len(set(maps))
