"""The page as `cohortlens view` serves it, in a browser."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from tasks.storage.location import Location
from tasks.viewer.server import make_app
from tests.tasks.readings import rating_of
from tests.viewer.conftest import Serve

TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def address(demo: Path) -> Iterator[str]:
    """The address of the demo's output, with the token."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = make_app(Location(url=str(demo)), TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/demo"
        server.should_exit = True
        thread.join()


def test_the_page_opens_and_rates_under_the_server_s_policy(page: Page, address: str, demo: Path) -> None:
    page.goto(f"{address}/viewer/index.html")
    expect(page.get_by_role("main")).to_be_visible()
    output = Location(url=str(demo))
    rating = rating_of(output, 0, comment="from the page")
    post = "body => fetch('../ratings', {method: 'POST', headers: {'content-type': 'application/json'}, body})"
    assert page.evaluate(f"{post}.then(answer => answer.status)", json.dumps(rating)) == 201
    asked = f"../ratings?image_id={rating['image_id']}&rater=reader-a"
    told = page.evaluate("address => fetch(address).then(answer => answer.json())", asked)
    assert [one["comment"] for one in told] == ["from the page"]
    page.goto(f"{address}/report/index.html")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_page_of_another_origin_reads_by_the_address_and_cannot_rate(
    browser: Browser, address: str, serve: Serve, tmp_path: Path, demo: Path
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>elsewhere</title>")
    page = browser.new_page()
    page.goto(f"{serve(tmp_path)}/index.html")
    part = "address => fetch(address, {headers: {range: 'bytes=-5'}}).then(answer => answer.status)"
    assert page.evaluate(part, f"{address}/explanations.zarr/zarr.json") == 206
    before = Location(url=str(demo)).sizes()
    for kind in ("application/json", "text/plain"):
        headers = f"{{method: 'POST', headers: {{'content-type': '{kind}'}}, body}}"
        post = f"([address, body]) => fetch(address, {headers}).then(answer => answer.status, () => 'refused')"
        body = json.dumps(rating_of(Location(url=str(demo)), 1))
        assert page.evaluate(post, [f"{address}/ratings", body]) in ("refused", 403)
    assert Location(url=str(demo)).sizes() == before
    page.close()
