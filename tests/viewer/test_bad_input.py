"""Servers that misbehave, stores that are damaged or not finished: the page says what, and shows what it can."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.plan import shards as shards_module
from tasks.storage.location import Location
from tasks.viewer.page import write_page
from tasks.viewer.server import make_app
from tests.tasks.outputs import NETWORK, Cohort, carry_out, explained, planned, squares_model
from tests.viewer.conftest import Serve, listening

STORE = "explanations.zarr"
CASE = "#/case/phantom-00001"
Answer = Callable[[str], Response | None]


def _server(folder: Path, answer: Answer) -> ASGIApp:
    """Serve a folder, but for the paths for which there is another answer."""
    files = StaticFiles(directory=folder, html=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        other = answer(scope["path"]) if scope["type"] == "http" else None
        await (other or files)(scope, receive, send)

    return app


def _without_range(folder: Path) -> ASGIApp:
    files = StaticFiles(directory=folder, html=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope.get("headers", []) if name != b"range"]
        await files({**scope, "headers": headers}, receive, send)

    return app


def _in_arrays(answer: Callable[[], Response]) -> Answer:
    return lambda path: answer() if f"{STORE}/image/" in path else None


def test_a_server_without_range_is_named(page: Page, serve: Serve, demo: Path) -> None:
    page.goto(f"{serve(_without_range(demo))}/viewer/index.html{CASE}")
    expect(page.get_by_role("alert").first).to_contain_text("web server that knows Range")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: PlainTextResponse("busy", 503), "was answered by 503: wait a moment"),
        (lambda: PlainTextResponse("who?", 401), "was answered by 401: sign in"),
        (lambda: HTMLResponse("<form>sign in</form>"), "a web page came"),
        (lambda: PlainTextResponse("", 416), "shorter than it should be"),
    ],
)
def test_an_answer_that_is_no_data_is_said_and_the_rest_is_shown(
    page: Page, serve: Serve, demo: Path, answer: Callable[[], Response], said: str
) -> None:
    page.goto(f"{serve(_server(demo, _in_arrays(answer)))}/viewer/index.html{CASE}")
    expect(page.get_by_role("alert").first).to_contain_text(said)
    expect(page.get_by_text("Probability")).to_be_visible()


def test_a_store_on_another_server_without_cors_is_said(browser: Browser, serve: Serve, demo: Path) -> None:
    """The browser itself complains in the console, so that the page is one that does not listen there."""
    elsewhere = serve(demo).replace("127.0.0.1", "localhost")
    server = _server(
        demo, lambda path: RedirectResponse(f"{elsewhere}/{path.split('/', 2)[2]}", 307) if STORE in path else None
    )
    page = browser.new_page()
    page.goto(f"{serve(server)}/viewer/index.html")
    expect(page.get_by_role("alert")).to_contain_text("serve page and store from one address")
    page.close()


@pytest.fixture
def copy(demo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo, tmp_path / "copy"))


def _edit_root(output: Path, change: Callable[[dict], object]) -> None:
    file = output / STORE / "zarr.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda metadata: metadata["attributes"].update(layout=7), "A store of an older layout"),
        (lambda metadata: metadata["attributes"].update(layout=99), "this page is older than the store"),
        (lambda metadata: metadata["attributes"].clear(), "No store of cohortlens"),
        (lambda metadata: metadata.pop("consolidated_metadata"), "list of its arrays is missing"),
    ],
)
def test_a_store_that_this_page_cannot_read_is_named(
    page: Page, serve: Serve, copy: Path, change: Callable[[dict], object], said: str
) -> None:
    _edit_root(copy, change)
    page.goto(f"{serve(copy)}/viewer/index.html")
    expect(page.get_by_role("alert")).to_contain_text(said)
    expect(page.get_by_role("link", name="report")).to_have_attribute("href", "../report/index.html")


def test_metadata_that_is_no_json_is_damage(page: Page, serve: Serve, copy: Path) -> None:
    (copy / STORE / "zarr.json").write_text('{"attributes": {')
    page.goto(f"{serve(copy)}/viewer/index.html")
    expect(page.get_by_role("alert")).to_contain_text("zarr.json is no JSON: run `cohortlens verify --repair")


def _lose(folder: Path) -> None:
    shutil.rmtree(folder / "c")


def _truncate(folder: Path) -> None:
    for file in (folder / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _overwrite(folder: Path) -> None:
    for file in (folder / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(bytes(range(256)) * (file.stat().st_size // 256 + 1))


@pytest.mark.parametrize("damage", [_lose, _truncate, _overwrite])
def test_damaged_maps_are_said_and_the_image_is_shown(
    page: Page, serve: Serve, copy: Path, damage: Callable[[Path], None]
) -> None:
    damage(copy / STORE / "attribution")
    page.goto(f"{serve(copy)}/viewer/index.html{CASE}")
    expect(page.get_by_role("alert").first).to_contain_text("cohortlens verify --repair")
    expect(page.get_by_role("img", name="image").first).to_be_visible()


def test_a_run_that_is_still_at_work_is_said(page: Page, serve: Serve, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "output"))
    cohort = Cohort(tmp_path / "cohort", range(8))
    planned(cohort.content(output))
    write_page(output)
    page.goto(f"{serve(tmp_path / 'output')}/viewer/index.html")
    expect(page.get_by_text("8 of 8 images are not entered in the store yet")).to_be_visible()


@pytest.fixture
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """An output of a run that was killed when two of its four shards were delivered."""
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 3)
    output = Location(url=str(tmp_path / "output"))
    planned(Cohort(tmp_path / "cohort", range(12)).content(output))
    explained(output, [0, 1])
    return output


def test_of_a_run_that_was_cut_off_what_is_there_is_shown(page: Page, cut_off: Location) -> None:
    """`cohortlens view` keeps the manifest back, so that images are listed by the store."""
    with listening(make_app(cut_off, "t" * 32)) as address:
        page.goto(f"{address}/{'t' * 32}/output/viewer/index.html")
        expect(page.get_by_role("main").locator(".count")).to_have_text("12 images")
        expect(page.get_by_text("Images are listed by the store")).to_be_visible()
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="id-5"))
        expect(row).to_contain_text("l5")
        row.get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("id-5")
        expect(page.get_by_role("img", name="saliency").first).to_be_visible()
        page.get_by_role("heading", name="Rate this case").click()
        expect(page.get_by_text("A case can be rated when the run is finished")).to_be_visible()
        page.keyboard.press("j")
        expect(page.get_by_role("heading", level=1)).to_have_text("id-6")
        expect(page.get_by_text("has not been explained yet")).to_be_visible()


def test_a_commit_of_another_plan_does_not_vouch_for_an_image(page: Page, cut_off: Location) -> None:
    plan = json.loads((cut_off / "plan.json").read())
    plan["shards"]["digests"][0] = "0" * 64
    (cut_off / "plan.json").write(json.dumps(plan).encode())
    with listening(make_app(cut_off, "t" * 32)) as address:
        page.goto(f"{address}/{'t' * 32}/output/viewer/index.html#/case/id-1")
        expect(page.get_by_text("has not been explained yet")).to_be_visible()


def test_an_address_with_a_percent_sign_of_its_own_is_read(page: Page, serve: Serve, demo: Path) -> None:
    page.goto(f"{serve(demo)}/viewer/index.html#/case/50%")
    expect(page.get_by_text("The store has no image 50%")).to_be_visible()


def test_a_table_that_was_written_anew_is_not_read_on(page: Page, serve: Serve, copy: Path) -> None:
    """Pages of the new file lie elsewhere than those of the old: numbers would be of other images."""
    table = copy / "viewer/worklist.parquet"
    grown = pq.read_table(table)
    random = np.random.default_rng(0)
    filler = pa.array([random.bytes(10).hex() * 1000 for _ in range(grown.num_rows)])
    described = grown.append_column("filler", filler).replace_schema_metadata(grown.schema.metadata)
    pq.write_table(described, table, compression="none")
    page.goto(f"{serve(copy)}/viewer/index.html")
    expect(page.get_by_role("link", name="phantom-00000")).to_be_visible()
    pq.write_table(described.slice(1), table, compression="none")
    page.get_by_label("Sort by").select_option("metric_gini/lesion/saliency")
    expect(page.get_by_text("has changed since the page was opened").first).to_be_visible()


def test_facts_of_a_case_are_not_taken_from_a_worklist_of_another_plan(page: Page, serve: Serve, copy: Path) -> None:
    _edit_root(copy, lambda metadata: metadata["attributes"].update(plan_digest="0" * 64))
    page.goto(f"{serve(copy)}/viewer/index.html{CASE}")
    expect(page.get_by_label("Status").get_by_text("explained")).to_be_visible()
    page.wait_for_load_state("networkidle")
    expect(page.get_by_label("Status").get_by_text("predicted")).to_have_count(0)


def test_a_page_that_was_moved_without_its_store_says_so(page: Page, serve: Serve, demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "viewer", tmp_path / "elsewhere/viewer")
    page.goto(f"{serve(tmp_path / 'elsewhere')}/viewer/index.html{CASE}")
    expect(page.get_by_role("alert")).to_contain_text("has the folder been moved?")


MARKUP = "<img src=x onerror='window.struck=1'><script>window.struck=1</script>"
TURNED = "\u202egnp.exe\u202c\u2067"


LONG = "x" * 10_000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output whose ids, labels, classes and description are markup, turn the writing round, or do not end."""
    folder = tmp_path_factory.mktemp("hostile")
    output = Location(url=str(folder / "output"))
    cohort = Cohort(folder / "cohort", range(4))
    table = pd.read_csv(cohort.folder / "manifest.csv")
    table["id"] += MARKUP + TURNED
    table["label"] = [MARKUP, TURNED, LONG, ""]
    table.to_csv(cohort.folder / "manifest.csv", index=False)
    content = cohort.content(output, metrics=["gini"], results=["mean_maps", "words"])
    content["model"] = squares_model(cohort.folder, (MARKUP, LONG[:500]), NETWORK)
    content["cohort"]["description"] = MARKUP + TURNED + LONG
    carry_out(content, report=True)
    return folder / "output"


@pytest.mark.parametrize("fragment", ["#/worklist", "#/cohort", f"#/case/{quote(f'id-0{MARKUP}{TURNED}', safe='')}"])
def test_hostile_text_is_never_markup_and_breaks_no_layout(
    page: Page, serve: Serve, hostile: Path, fragment: str
) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{serve(hostile)}/viewer/index.html{fragment}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_load_state("networkidle")
    expect(page.locator("body")).to_contain_text(MARKUP, use_inner_text=True)
    assert page.evaluate("[window.struck, document.querySelectorAll('img[src=x], body script').length]") == [None, 0]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
