"""The page straight from a bucket, as `docs/viewer.md` says that one is opened to readers."""

import json
import os
import re
import shutil
import time
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from playwright.sync_api import Browser, Page, expect
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.plan import shards as shards_module
from tasks.storage.location import Location
from tasks.viewer.page import write_page
from tests.tasks.outputs import Cohort, carry_out, explained, planned
from tests.viewer.conftest import Serve

DOCS = Path(__file__).resolve().parents[2] / "docs/viewer.md"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json"}


@dataclass(frozen=True)
class Bucket:
    """A bucket with an output `demo`, and the policy and CORS rules that the page of the docs states for one."""

    output: Location

    @property
    def name(self) -> str:
        return self.output.path.split("/")[0]

    @property
    def address(self) -> str:
        return f"{self.output.endpoint_url}/{self.output.path}"

    @cached_property
    def client(self) -> Any:
        session = botocore.session.get_session()
        return session.create_client("s3", endpoint_url=self.output.endpoint_url, region_name="us-east-1")

    def open_to_readers(self, only: str = "") -> None:
        """Set the policy of the docs; `only` keeps some of its resources."""
        policy = self._of_docs("Statement")
        (statement,) = policy["Statement"]
        statement["Resource"] = [name for name in statement["Resource"] if only in name]
        self.client.put_bucket_policy(Bucket=self.name, Policy=json.dumps(policy))
        _wait_until_readable(f"{self.address}/viewer/index.html")

    def allow_origin(self, origin: str) -> None:
        """Set the CORS rules of the docs, for another origin than theirs."""
        rules = self._of_docs("CORSRules")
        rules["CORSRules"][0]["AllowedOrigins"] = [origin]
        self.client.put_bucket_cors(Bucket=self.name, CORSConfiguration=rules)

    def _of_docs(self, key: str) -> Any:
        blocks = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
        (found,) = [block for block in blocks if key in json.loads(block)]
        return json.loads(found.replace(":::results/", f":::{self.name}/"))


def _wait_until_readable(address: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(address, timeout=10).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"{address} is not open to readers")


def _make(endpoint: str, name: str) -> Bucket:
    output = Location(url=f"s3://{name}/demo", endpoint_url=endpoint)
    output.filesystem.mkdir(name)
    return Bucket(output)


@pytest.fixture(scope="module")
def written(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """What a run wrote into a bucket."""
    bucket = _make(s3_endpoint, "bucket-of-the-viewer")
    cohort = Cohort(tmp_path_factory.mktemp("bucket") / "cohort", range(6))
    carry_out(cohort.content(bucket.output, metrics=["gini"], results=["mean_maps"]), report=True)
    return bucket


@pytest.fixture
def public(written: Bucket) -> Bucket:
    written.open_to_readers()
    return written


def test_objects_say_what_they_are_and_that_a_copy_is_to_be_checked(written: Bucket) -> None:
    for path in written.output.sizes():
        head = written.client.head_object(Bucket=written.name, Key=f"demo/{path}")
        said = head["ContentType"].partition(";")[0]
        assert said == TYPES.get(Path(path).suffix, said), path
        assert Path(path).suffix or said == "application/octet-stream", path
        assert head["CacheControl"] == "no-cache"


def test_what_is_written_piece_by_piece_or_only_once_says_so_too(bucket: Location) -> None:
    with (bucket / "pieces.json").writing() as file:
        file.write(b"{}" * 2**24)
    (bucket / "once.json").create(b"{}")
    for name in ("pieces.json", "once.json"):
        facts = Bucket(bucket).client.head_object(Bucket=bucket.path, Key=name)
        assert (facts["ContentType"], facts["CacheControl"]) == ("application/json", "no-cache")


def test_a_page_that_lies_there_as_any_bytes_is_written_anew(bucket: Location) -> None:
    write_page(bucket)
    client = Bucket(bucket).client
    body = (bucket / "viewer/main.js").read()
    client.put_object(Bucket=bucket.path, Key="viewer/main.js", Body=body, ContentType="application/octet-stream")
    write_page(bucket)
    assert client.head_object(Bucket=bucket.path, Key="viewer/main.js")["ContentType"].startswith("text/javascript")


def test_a_reader_walks_through_an_output_in_a_bucket(page: Page, public: Bucket) -> None:
    page.goto(f"{public.address}/viewer/index.html")
    expect(page.get_by_text("6 images")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="No run of this output")).to_have_count(0)
    page.get_by_role("link", name="id-2").click()
    for title in ("image", "saliency", "smoothgrad"):
        expect(page.get_by_role("img", name=title).first).to_be_visible()
    expect(page.get_by_text("Colours of this case alone")).to_have_count(0)
    page.get_by_role("link", name="Cohort").click()
    expect(page.get_by_role("heading", name="mean")).to_be_visible()
    expect(page.get_by_role("region", name="Metrics of").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_rating_is_offered_as_a_file(page: Page, public: Bucket) -> None:
    page.goto(f"{public.address}/viewer/index.html#/case/id-2")
    page.get_by_role("heading", name="Rate this case").click()
    page.get_by_label("Your pseudonym").fill("reader-a")
    page.get_by_role("group", name="The prediction").get_by_label("agree", exact=True).check()
    page.get_by_role("button", name="Save the rating").click()
    expect(page.get_by_text("Nobody takes ratings here")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rating").click()
    assert json.loads(download.value.path().read_text())["rater"] == "reader-a"
    assert not any(path.startswith("ratings") for path in public.output.sizes())


def test_an_object_that_is_written_anew_is_not_read_on_by_its_old_index(page: Page, public: Bucket) -> None:
    page.goto(f"{public.address}/viewer/index.html#/case/id-0")
    expect(page.get_by_role("img", name="image").first).to_be_visible()
    expect(page.get_by_text("1 of 6")).to_be_visible()
    shard = next(path for path in public.output.sizes() if "/image/c/0/" in f"/{path}")
    before = (public.output / shard).read()
    try:
        (public.output / shard).write(bytes(8) + before)
        page.keyboard.press("j")
        expect(page.get_by_role("alert").first).to_contain_text("has changed since the page was opened")
    finally:
        (public.output / shard).write(before)


def test_a_bucket_that_gives_out_the_page_alone_is_named(page: Page, s3_endpoint: str) -> None:
    bucket = _make(s3_endpoint, "page-of-the-viewer-alone")
    (bucket.output / "explanations.zarr/zarr.json").write(b"{}")
    write_page(bucket.output)
    bucket.open_to_readers(only="/viewer/*")
    page.goto(f"{bucket.address}/viewer/index.html")
    expect(page.get_by_role("alert")).to_contain_text("was answered by 403")
    expect(page.get_by_role("alert")).to_contain_text("explanations.zarr, viewer, report, commits and plan.json")


def test_a_link_to_the_page_alone_says_what_is_missing(browser: Browser, s3_endpoint: str) -> None:
    """The browser itself complains in the console, so that the page is one that does not listen there."""
    closed = _make(s3_endpoint, "closed-bucket-of-the-viewer")
    write_page(closed.output)
    link = closed.client.generate_presigned_url(
        "get_object", Params={"Bucket": closed.name, "Key": "demo/viewer/index.html"}
    )
    page = browser.new_page()
    page.goto(link)
    expect(page.get_by_role("heading", level=1)).to_have_text("This page has to be served whole")
    expect(page.get_by_text("opens nothing beside it")).to_be_visible()
    page.close()


def test_pages_of_the_origin_that_is_allowed_read_the_store_and_no_others(
    browser: Browser, public: Bucket, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>elsewhere</title>")
    address = serve(tmp_path)
    public.allow_origin("/".join(address.split("/")[:3]))
    part = """address => fetch(address, {headers: {range: 'bytes=-5', 'if-none-match': '"x"'}}).then(
        ({status, headers}) => [status, headers.get('content-range'), headers.has('etag')], () => 'refused')"""
    zarr = f"{public.address}/explanations.zarr/zarr.json"
    size = (public.output / "explanations.zarr/zarr.json").size()
    for opened, told in (
        (address, [206, f"bytes {size - 5}-{size - 1}/{size}", True]),
        (address.replace("127.0.0.1", "localhost"), "refused"),
    ):
        page = browser.new_page()
        page.goto(f"{opened}/index.html")
        assert page.evaluate(part, zarr) == told
        page.close()


def _forbidding(folder: Path) -> ASGIApp:
    """Serve a folder as a bucket at Amazon that does not list: 403 for what is not there, and nothing of caching."""
    files = StaticFiles(directory=folder)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await files(scope, receive, send)
        except HTTPException:
            await PlainTextResponse("<Code>AccessDenied</Code>", 403)(scope, receive, send)

    return app


def test_403_is_taken_for_what_is_not_there(
    page: Page, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 3)
    output = Location(url=str(tmp_path / "output"))
    planned(Cohort(tmp_path / "cohort", range(12)).content(output))
    explained(output, [0, 1])
    (output / "manifest.parquet").remove()
    write_page(output)
    page.goto(f"{serve(_forbidding(tmp_path / 'output'))}/viewer/index.html")
    expect(
        page.get_by_text("The server answered 403 for viewer/worklist.parquet: it keeps the file back")
    ).to_be_visible()
    page.get_by_role("link", name="id-5").click()
    expect(page.get_by_role("img", name="saliency").first).to_be_visible()
    expect(page.get_by_text("6 of 12")).to_be_visible()
    page.keyboard.press("j")
    expect(page.get_by_text("has not been explained yet")).to_be_visible()


@pytest.fixture
def aged(demo: Path, tmp_path: Path) -> Path:
    """An output that was last written a year ago: browsers keep their copies of it for a month if nobody forbids it."""
    folder = Path(shutil.copytree(demo, tmp_path / "aged"))
    for file in folder.rglob("*"):
        _age(file, 365)
    return folder


def _age(file: Path, days: int) -> None:
    then = time.time() - days * 86_400
    os.utime(file, (then, then))


def test_a_browser_s_copy_is_not_taken_for_what_a_later_run_wrote(page: Page, serve: Serve, aged: Path) -> None:
    address = serve(_forbidding(aged))
    page.goto(f"{address}/viewer/index.html")
    expect(page.get_by_text("39 images")).to_be_visible()
    root = aged / "explanations.zarr/zarr.json"
    metadata = json.loads(root.read_text())
    metadata["attributes"]["comment"] = "written by a later run"
    root.write_text(json.dumps(metadata))
    _age(root, 300)
    page.goto("about:blank")
    page.goto(f"{address}/viewer/index.html")
    expect(page.get_by_text("written by a later run")).to_be_visible()
