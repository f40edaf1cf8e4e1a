"""The cohort view: the report's numbers, results as they are declared, and the cases behind them."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, expect

from tasks.plan.plan import Plan
from tasks.report.numbers import with_interval
from tasks.storage.location import Location
from tasks.store.scales import reaches_of
from tasks.store.template import open_store
from tasks.viewer import write_viewer
from tests.tasks.every_result import of_every_result
from tests.tasks.outputs import Cohort, carry_out
from tests.viewer.conftest import Serve
from tests.viewer.looking import eventually


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with results of every kind, of pictures of 16 x 16."""
    folder = tmp_path_factory.mktemp("every")
    output = Location(url=str(folder / "output"))
    carry_out(of_every_result(folder) | {"output": output.model_dump()})
    write_viewer(output, reaches_of(open_store(output), Plan.read(output).outputs.values()))
    return folder / "output"


def test_the_evidence_is_that_of_the_report(page: Page, serve: Serve, demo: Path) -> None:
    page.goto(f"{serve(demo)}/viewer/index.html#/cohort")
    expect(page.get_by_role("table").first).to_be_visible()
    table = pd.read_csv(demo / "report/evidence.csv").set_index(["class", "metric", "explainer"]).loc["all"]
    for (metric, explainer), row in table.iterrows():
        link = page.locator(f"a[href*='{metric}%2Flesion%2F{explainer}']")
        said = link.inner_text().replace("≈", "").strip()
        assert said == with_interval(row["mean"], row["low"], row["high"])
        told = explainer.startswith("control_") or bool(row["differs"])
        assert ("≈" in link.inner_text()) is not told


def test_controls_are_marked_and_come_last(page: Page, serve: Serve, demo: Path) -> None:
    page.goto(f"{serve(demo)}/viewer/index.html#/cohort")
    rows = page.get_by_role("region", name="Metrics of complexity").get_by_role("rowheader")
    expect(rows).to_have_count(6)
    names = rows.all_inner_texts()
    assert [name.split("\n")[0] for name in names][-2:] == ["control_random", "control_edges"]
    assert [("\ncontrol" in name) for name in names] == [name.startswith("control_") for name in names]


def test_an_output_without_evidence_says_so(page: Page, serve: Serve, every: Path) -> None:
    page.goto(f"{serve(every)}/viewer/index.html#/cohort")
    expect(page.get_by_text("There is no report/evidence.csv beside this store")).to_be_visible()


def test_every_result_is_shown_or_listed_and_links_name_columns_of_the_worklist(
    page: Page, serve: Serve, every: Path
) -> None:
    page.goto(f"{serve(every)}/viewer/index.html#/cohort")
    for name, variable in open_store(Location(url=str(every))).data_vars.items():
        if variable.attrs.get("kind") == "result" and variable.dims[0] != "image_id":
            there = page.locator(f"th[title='{name}'], figure[data-name='{name}'], li[data-name='{name}']")
            expect(there).to_have_count(1)
    expect(page.locator("a[href*='regions_share']").first).to_be_visible()
    asked = page.locator("a[href*='#/worklist?']").evaluate_all(
        "links => links.flatMap((link) => [...new URLSearchParams(link.hash.split('?')[1]).values()])"
    )
    names = set(pq.read_schema(every / "viewer/worklist.parquet").names)
    assert len(asked) > 20 and {value.lstrip("-").split(":")[0] for value in asked} <= names


def test_numbers_are_those_of_the_store(page: Page, serve: Serve, every: Path) -> None:
    page.goto(f"{serve(every)}/viewer/index.html#/cohort")
    dataset = open_store(Location(url=str(every)))
    for name, at in _CELLS:
        page.locator(f"th[title='{name}']").wait_for()
        said = page.evaluate(_CELL, [name, [str(label) for label in at.values()]])
        assert float(said) == pytest.approx(float(dataset[name].sel(at)), abs=5e-4)
    links = page.locator("a[href*='regions_share']")
    expect(links).to_have_count(2)
    means = np.nanmean(dataset["regions_share"].values, axis=(0, 1, 2))
    np.testing.assert_allclose([float(text) for text in links.all_inner_texts()], means, atol=5e-4)


_CELLS: list[tuple[str, dict[str, str | int]]] = [
    ("tcav_accuracy", {"tcav_concept": "bright"}),
    ("tcav_random_score", {"tcav_concept": "bright", "class": "a"}),
    ("shortcut_share", {"cluster": 2}),
    ("mean_maps_count", {"class": "a", "explainer": "saliency"}),
]


@pytest.mark.parametrize(
    ("result", "name", "members"),
    [
        ("mean_maps_count", "a", lambda row: row["target_class/a"] == "a"),
        ("mean_maps_count", "b", lambda row: row["target_class/b"] == "b"),
        ("prototype_image", "a", lambda row: "a" in row["predicted"].split("|")),
        ("prototype_share", "b", lambda row: "b" in row["predicted"].split("|")),
    ],
)
def test_a_class_leads_to_the_images_that_its_numbers_sum_up(
    page: Page, serve: Serve, several: Path, result: str, name: str, members: Callable[[dict], bool]
) -> None:
    page.goto(f"{serve(several)}/viewer/index.html#/cohort")
    table = page.get_by_role("table").filter(has=page.locator(f"th[title='{result}']"))
    table.get_by_role("link", name=name, exact=True).first.click()
    rows = pq.read_table(several / "viewer/worklist.parquet").to_pylist()
    count = sum(map(members, rows))
    said = f"{count} images" if count == len(rows) else f"{count} of {len(rows)} images"
    expect(page.get_by_role("main").locator(".count")).to_have_text(said)


def test_evidence_of_a_class_leads_to_its_own_maps(page: Page, serve: Serve, several: Path) -> None:
    page.goto(f"{serve(several)}/viewer/index.html#/cohort?class=b")
    page.get_by_role("region", name="Metrics of").get_by_role("link").first.click()
    expect(page.get_by_role("main").locator(".count")).to_have_text("12 images")
    expect(page).to_have_url(re.compile("sort=metric_gini%2Fb%2Fsaliency"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of a network whose classes do not exclude one another, with maps for each."""
    folder = tmp_path_factory.mktemp("several")
    cohort, output = Cohort(folder / "cohort", range(12)), Location(url=str(folder / "output"))
    carry_out(
        cohort.content(
            output,
            model=cohort.model | {"activation": "sigmoid"},
            explainers=["saliency", "embedding"],
            metrics=["gini"],
            results=["mean_maps", "prototypes"],
            target={"name": "classes", "classes": ["a", "b"]},
        ),
        report=True,
    )
    return folder / "output"


def test_rows_of_images_lead_to_their_cases(page: Page, serve: Serve, every: Path) -> None:
    page.goto(f"{serve(every)}/viewer/index.html#/cohort")
    dataset = open_store(Location(url=str(every)))
    row = int(dataset["prototype_image"].values[0, 0])
    name = str(dataset["image_id"].values[row])
    link = (
        page.get_by_role("table").filter(has=page.locator("th[title='prototype_image']")).get_by_role("link", name=name)
    )
    link.first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page).to_have_url(re.compile(f"#/case/{re.escape(quote(name, safe=''))}$"))


def test_a_mean_map_is_painted_in_the_colours_of_its_scale(page: Page, serve: Serve, every: Path) -> None:
    page.goto(f"{serve(every)}/viewer/index.html#/cohort")
    picture = page.locator("figure[data-name='mean_maps']").get_by_role("img", name="a, saliency")
    expect(picture).to_be_visible()
    values = open_store(Location(url=str(every)))["mean_maps"].sel({"class": "a", "explainer": "saliency"}).values
    limit = np.quantile(np.abs(values), 0.9)

    def painted() -> None:
        found = np.array(picture.evaluate(_PIXELS))
        assert found.size == 16 * 16 * 4
        red, _, blue = np.moveaxis(found.reshape(16, 16, 4)[..., :3], -1, 0)
        assert _same_way(values, red - blue, limit)

    eventually(page, painted)


_CELL = """([name, labels]) => {
    const heading = document.querySelector(`th[title="${name}"]`);
    const rows = [...heading.closest("table").tBodies[0].rows];
    const row = rows.find(({ cells }) => labels.every((label, at) => cells[at].innerText === label));
    return row.cells[heading.cellIndex].innerText;
}"""

_PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"


def _same_way(values: np.ndarray, redness: np.ndarray, limit: float) -> bool:
    """Tell whether strong places are red where positive and blue where negative, however the picture is turned."""
    return any(
        bool(np.all(redness[turned > limit] > 0) and np.all(redness[turned < -limit] < 0))
        for turned in (np.rot90(one, quarter) for one in (values, values.T) for quarter in range(4))
    )
