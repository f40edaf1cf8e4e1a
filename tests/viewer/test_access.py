"""The page for readers who see little, use no mouse, or hear it: contrast, names, order, focus, targets."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.viewer.conftest import Serve
from tests.viewer.looking import eventually

CASE = "#/case/phantom-00001"
Open = Callable[..., Page]

TEXTS = """() => {
  const pixel = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((part, at) => a * part + (1 - a) * below[at]).concat(1);
  const ground = element => {
    const above = element.parentElement ? ground(element.parentElement) : rgba('Canvas');
    return over(rgba(getComputedStyle(element).backgroundColor), above);
  };
  const light = colour => colour.slice(0, 3).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const contrast = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const found = [];
  const seen = element => element.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const {parentElement: element, data} = nodes.currentNode;
    if (!data.trim() || !seen(element) || element.closest(':disabled, option')) continue;
    const below = ground(element);
    found.push([data.trim().slice(0, 40), contrast(over(rgba(getComputedStyle(element).color), below), below)]);
  }
  for (const field of document.querySelectorAll('input[placeholder]')) {
    const below = ground(field);
    found.push([field.placeholder, contrast(over(rgba(getComputedStyle(field, '::placeholder').color), below), below)]);
  }
  const edges = [];
  for (const control of document.querySelectorAll('button, select, textarea, input:not([type=range])')) {
    const {borderTopColor, borderTopWidth} = getComputedStyle(control);
    const isOther = control.matches(':disabled, [type=checkbox], [type=radio]') || borderTopWidth === '0px';
    if (isOther || !seen(control)) continue;
    const around = ground(control.parentElement);
    edges.push([control.outerHTML.slice(0, 80), contrast(over(rgba(borderTopColor), around), around)]);
  }
  return [found, edges];
}"""

FOCUSED = """() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  const {outlineStyle, outlineWidth} = getComputedStyle(element);
  const {width, height} = element.getBoundingClientRect();
  return {
    what: element.outerHTML.slice(0, 80),
    isOutlined: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2,
    isGrid: element.matches('.grid'),
    size: width * height,
  };
}"""


@pytest.fixture
def opened(browser: Browser, serve: Serve, demo: Path) -> Iterator[Open]:
    """Open a view of the demo's output, on whatever screen."""
    pages: list[Page] = []

    def opened(fragment: str, **screen: Any) -> Page:
        page = browser.new_page(**{"viewport": {"width": 1400, "height": 900}, **screen})
        pages.append(page)
        page.goto(f"{serve(demo)}/viewer/index.html{fragment}")
        expect(page.locator("main h1")).to_be_attached()
        page.wait_for_load_state("networkidle")
        return page

    yield opened
    for page in pages:
        page.close()


def _open_all(page: Page) -> None:
    """Open whatever is folded: form, settings, filters."""
    page.evaluate("document.querySelectorAll('details').forEach(one => one.setAttribute('open', ''))")
    page.wait_for_load_state("networkidle")


VIEWS = ["#/worklist?filter=right:is:yes&sort=entropy", CASE, f"{CASE}?mode=overlay", "#/cohort", "#/case/nobody"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fragment", VIEWS)
def test_text_and_edges_of_fields_stand_out(opened: Open, fragment: str, scheme: str) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text of any size, 3 for what shows where a field is."""
    page = opened(fragment, color_scheme=scheme)
    _open_all(page)
    texts, edges = page.evaluate(TEXTS)
    assert len(texts) > 5
    assert not [(text, round(ratio, 2)) for text, ratio in texts if ratio < 4.5]
    assert not [(control, round(ratio, 2)) for control, ratio in edges if ratio < 3]


@pytest.mark.parametrize("fragment", VIEWS)
def test_headings_are_in_order_and_everything_has_a_name(opened: Open, fragment: str) -> None:
    page = opened(fragment)
    _open_all(page)
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => Number(one.tagName[1]))")
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.get_by_role("main").count() == 1
    for role in ("button", "link", "textbox", "searchbox", "combobox", "spinbutton", "slider", "checkbox", "radio"):
        assert not page.get_by_role(role, name="", exact=True).all(), role  # type: ignore[arg-type]
    for table in page.get_by_role("table").all():
        assert (
            table.get_by_role("rowheader").count()
            == table.get_by_role("row").count() - table.locator("thead tr").count()
        )
    named = "[...document.querySelectorAll('span, b, p, i, code')].filter(one => one.ariaLabel && !one.role)"
    assert page.evaluate(f"{named}.map(one => one.outerHTML)") == []


@pytest.mark.parametrize("fragment", ["#/worklist", CASE, "#/cohort"])
def test_the_tab_key_goes_round_with_a_focus_that_is_seen(opened: Open, fragment: str) -> None:
    page = opened(fragment)
    met: list[str] = []
    for _ in range(150):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None or (len(met) > 3 and focused["what"] == met[0]):
            break
        assert focused["isOutlined"] or focused["isGrid"], focused  # the grid marks its row and its heading
        assert focused["size"] > 0, focused
        met.append(focused["what"])
    else:
        raise AssertionError(f"the focus does not come out of {met[-5:]}")
    assert len(met) > 5


def test_the_grid_marks_where_the_keys_are(opened: Open) -> None:
    page = opened("#/worklist", forced_colors="active")
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowDown")
    row = page.get_by_role("row", selected=True)
    expect(row).to_contain_text("phantom-00001")
    assert page.get_by_role("grid").get_attribute("aria-activedescendant") == row.get_attribute("id")
    assert row.evaluate("row => getComputedStyle(row).outlineStyle") == "solid"


def test_what_is_pressed_and_how_long_bars_are_is_seen_in_forced_colours(opened: Open) -> None:
    page = opened(CASE, forced_colors="active")
    colour = "one => getComputedStyle(one).backgroundColor"
    pressed, other = (page.get_by_role("button", name=name) for name in ("Side by side", "Over the image"))
    assert pressed.evaluate(colour) != other.evaluate(colour)
    bar, track = page.locator(".bar-track span").last, page.locator(".bar-track").last
    assert bar.evaluate(colour) != track.evaluate(colour)
    assert "gradient" in page.locator(".legend-bar").first.evaluate("one => getComputedStyle(one).backgroundImage")


def test_the_focus_goes_to_the_heading_of_what_was_opened(opened: Open) -> None:
    page = opened("#/worklist")
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    focused = page.locator("h1:focus")
    expect(focused).to_have_text("phantom-00001")
    page.get_by_role("link", name="Next").focus()
    page.keyboard.press("Enter")
    expect(focused).to_have_text("phantom-00002")
    page.keyboard.press("j")
    expect(focused).to_have_text("phantom-00003")
    page.get_by_role("link", name="Cohort").focus()
    page.keyboard.press("Enter")
    expect(focused).to_contain_text("Cohort of")


def test_escape_closes_a_panel_and_leaves_the_focus_where_it_was_opened(opened: Open) -> None:
    page = opened("#/worklist")
    filters = page.locator("summary", has_text="Filter")
    filters.focus()
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="Column").focus()
    page.keyboard.press("Escape")
    expect(page.get_by_role("combobox", name="Column")).to_be_hidden()
    expect(filters).to_be_focused()


def test_a_page_key_on_a_flat_picture_scrolls_the_page(opened: Open) -> None:
    page = opened(CASE, viewport={"width": 390, "height": 844})
    page.get_by_role("img", name="image").first.focus(timeout=30_000)
    page.keyboard.press("PageDown")

    def scrolled() -> None:
        assert page.evaluate("scrollY") > 300

    eventually(page, scrolled)


@pytest.mark.parametrize("fragment", ["#/worklist", CASE, "#/cohort"])
def test_what_is_touched_is_large_enough_and_nothing_is_scrolled_sideways(opened: Open, fragment: str) -> None:
    """WCAG 2.2, 2.5.8 and 1.4.10: 24 pixels, but for links in a line of text; a page of 320 pixels."""
    page = opened(fragment, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    _open_all(page)
    small = """[...document.querySelectorAll('button, select, textarea, summary, input, a')].filter(one => {
      const target = one.closest('label') ?? one;
      const {width, height} = target.getBoundingClientRect();
      const isInText = one.matches('a') && one.closest('p, td, th, li, .sheet');
      return one.checkVisibility() && !isInText && !one.closest('.grid, .unseen') && Math.min(width, height) < 24;
    }).map(one => one.outerHTML.slice(0, 90))"""
    assert page.evaluate(small) == []
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
