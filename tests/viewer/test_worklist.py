"""The worklist in a browser: what its address says is shown, and what one does is in its address."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.viewer.conftest import Serve

SALIENCY = "metric_gini/lesion/saliency"


def count(page: Page) -> Locator:
    return page.get_by_role("main").locator(".count")


def listed(demo: Path) -> list[dict[str, Any]]:
    """The rows of the worklist, as another reader has them."""
    return pq.read_table(demo / "viewer/worklist.parquet").to_pylist()  # type: ignore[no-any-return]


def ids(page: Page) -> list[str]:
    """The ids of the rows that are drawn, from the top."""
    return page.locator(".grid .row a").all_inner_texts()


@pytest.fixture
def address(serve: Serve, demo: Path) -> str:
    return f"{serve(demo)}/viewer/index.html"


def test_all_images_are_listed_in_the_order_of_the_store(page: Page, address: str, demo: Path) -> None:
    page.goto(address)
    rows = listed(demo)
    expect(count(page)).to_have_text(f"{len(rows)} images")
    expect(page.get_by_role("grid")).to_have_attribute("aria-rowcount", str(len(rows) + 1))
    expect(page.get_by_role("link", name="phantom-00000")).to_be_visible()
    drawn = ids(page)
    assert len(drawn) < len(rows) and drawn == [row["id"] for row in rows[: len(drawn)]]
    expect(page.locator(".grid canvas").first).to_have_attribute("width", "96")  # a picture was drawn
    page.get_by_role("grid").evaluate("grid => grid.scrollTo(0, 1e9)")
    expect(page.get_by_role("link", name="damaged-00002")).to_be_visible()


@pytest.mark.parametrize(
    ("query", "meets"),
    [
        ("filter=label:is:lesion", lambda row: row["label"] == "lesion"),
        ("filter=right:is:no", lambda row: row["right"] is False),
        ("filter=right:is:", lambda row: row["right"] is None),
        ("filter=image_flags:has:saturated", lambda row: row["image_flags"] & 4),
        (f"filter={SALIENCY}:min:0.9", lambda row: row[SALIENCY] >= 0.9),
        ("filter=label:is:lesion&filter=right:is:no", lambda row: row["label"] == "lesion" and row["right"] is False),
        ("filter=status:is:quarantined", lambda row: row["status"] == "quarantined"),
        ("search=DAMAGED", lambda row: row["id"].startswith("damaged")),
    ],
)  # fmt: skip
def test_an_address_filters(page: Page, address: str, demo: Path, query: str, meets: Any) -> None:
    rows = listed(demo)
    expected = [row["id"] for row in rows if meets(row)]
    page.goto(f"{address}#/worklist?{query}")
    expect(count(page)).to_have_text(f"{len(expected)} of {len(rows)} images")
    expect(page.get_by_role("grid")).to_have_attribute("aria-rowcount", str(len(expected) + 1))
    expect(page.get_by_role("link", name=expected[0])).to_be_visible()
    assert ids(page) == expected[: len(ids(page))]


def test_a_heading_sorts_and_unknown_values_come_last(page: Page, address: str, demo: Path) -> None:
    page.goto(address)
    page.get_by_role("button", name="certainty").click()
    expect(page.get_by_role("columnheader", name="certainty")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="certainty").click()
    expect(page.get_by_role("columnheader", name="certainty")).to_have_attribute("aria-sort", "ascending")
    explained = [row for row in listed(demo) if row["status"] == "explained"]
    least = [row["id"] for row in sorted(explained, key=lambda row: row["certainty"])]
    expect(page.locator(".grid .row a").first).to_have_text(least[0])
    drawn = ids(page)
    assert drawn == least[: len(drawn)]
    expect(page).to_have_url(re.compile("sort=certainty"))
    page.get_by_role("grid").press("End")
    expect(page.get_by_role("link", name="damaged-00002")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("columnheader", name="certainty")).to_have_attribute("aria-sort", "descending")


def test_a_filter_is_added_by_its_form_and_taken_away(page: Page, address: str, demo: Path) -> None:
    rows = listed(demo)
    some = f"{sum(row['label'] == 'lesion' for row in rows)} of {len(rows)} images"
    page.goto(address)
    page.get_by_text("Filter", exact=True).click()
    page.get_by_label("Column").select_option("label")
    page.get_by_label("value").select_option("lesion")
    page.get_by_role("button", name="Add the filter").click()
    expect(count(page)).to_have_text(some)
    expect(page).to_have_url(re.compile("filter=label%3Ais%3Alesion"))
    page.get_by_label("Column").select_option(SALIENCY)
    page.get_by_label("at least").fill("2")
    page.get_by_role("button", name="Add the filter").click()
    expect(page.get_by_role("main")).to_contain_text("No image meets all filters")
    page.get_by_role("button", name="Remove the filter: metric gini: saliency ≥ 2").click()
    expect(count(page)).to_have_text(some)
    page.get_by_role("button", name="Clear all").click()
    expect(count(page)).to_have_text(f"{len(rows)} images")


def test_keys_move_search_and_open_a_case(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.get_by_role("link", name="phantom-00000")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("0003")
    expect(count(page)).to_have_text(re.compile("^7 of "))
    grid = page.get_by_role("grid")
    grid.focus()
    grid.press("ArrowDown")
    grid.press("ArrowDown")
    grid.press("ArrowUp")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("phantom-00030")
    assert grid.get_attribute("aria-activedescendant") == page.locator(".row[aria-selected=true]").get_attribute("id")
    grid.press("Enter")
    page.wait_for_url(re.compile(r"#/case/phantom-00030\?search=0003$"))
    page.go_back()
    expect(page.get_by_label("Search by image")).to_have_value("0003")


def test_columns_are_chosen_and_the_list_is_downloaded(page: Page, address: str, demo: Path) -> None:
    rows = [row for row in listed(demo) if row["label"] == "lesion"]
    page.goto(f"{address}#/worklist?filter=label:is:lesion&columns={SALIENCY}&columns=image_flags")
    headings = ["image", "label", "metric gini: saliency", "image flags"]
    expect(page.get_by_role("columnheader").filter(has=page.get_by_role("button"))).to_have_text(headings)
    page.get_by_text("Columns", exact=True).click()
    page.get_by_role("checkbox", name="image flags", exact=True).uncheck()
    expect(page.get_by_role("columnheader").filter(has=page.get_by_role("button"))).to_have_text(headings[:3])
    with page.expect_download() as started:
        page.get_by_role("button", name="Download CSV").click()
    lines = started.value.path().read_text().splitlines()
    assert lines[0] == f"id,label,{SALIENCY}"
    assert [line.split(",")[0] for line in lines[1:]] == [row["id"] for row in rows]
    assert [float(line.split(",")[2]) for line in lines[1:]] == [row[SALIENCY] for row in rows]


def test_what_an_address_asks_in_vain_is_said(page: Page, address: str) -> None:
    page.goto(f"{address}#/worklist?filter=<b>site</b>:is:a&filter=label:is:lesion")
    expect(page.get_by_role("alert")).to_contain_text("“<b>site</b>:is:a” in the address is no filter of this output")
    expect(count(page)).to_contain_text(" of ")


@pytest.mark.parametrize(
    ("change", "said"),
    [("removed", "No run of this output is finished"), ("of another plan", "The worklist is of an earlier run")],
)
def test_without_a_worklist_images_are_listed_by_the_manifest(
    page: Page, serve: Serve, demo: Path, tmp_path: Path, change: str, said: str
) -> None:
    output = shutil.copytree(demo, tmp_path / "output")
    file = output / "viewer/worklist.parquet"
    if change == "removed":
        file.unlink()
    else:
        table = pq.read_table(file)
        with pq.ParquetWriter(file, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"cohortlens": json.dumps({"plan_digest": "another", "columns": []})})
    page.goto(f"{serve(output)}/viewer/index.html#/worklist?search=damaged")
    expect(page.get_by_text(said)).to_be_visible()
    expect(count(page)).to_have_text(re.compile("^3 of "))
    expect(page.get_by_text("damaged or unsupported nifti")).to_be_visible()


def test_a_text_of_a_file_is_no_markup(page: Page, serve: Serve, demo: Path, tmp_path: Path) -> None:
    output = shutil.copytree(demo, tmp_path / "output")
    file = output / "viewer/worklist.parquet"
    table, kept = pq.read_table(file), pq.ParquetFile(file).metadata.metadata
    place = table.column_names.index("label")
    table = table.set_column(place, table.field(place), pa.array(["<img src=x onerror=alert(1)>"] * len(table)))
    with pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"cohortlens": kept[b"cohortlens"].decode()})
    page.goto(f"{serve(output)}/viewer/index.html")
    expect(page.get_by_text("<img src=x onerror=alert(1)>").first).to_be_visible()
    expect(page.locator("img")).to_have_count(0)


def test_a_phone_shows_cards_that_are_not_wider_than_it(browser: Browser, address: str) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        page.goto(address)
        page.get_by_role("link", name="phantom-00001").tap(trial=True)
        expect(page.locator(".grid .row").nth(1)).to_contain_text("lesion")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        grid = page.get_by_role("grid")
        assert grid.evaluate("grid => grid.scrollWidth <= grid.clientWidth")
        page.get_by_role("link", name="phantom-00001").tap()
        page.wait_for_url(re.compile("#/case/phantom-00001$"))
