"""The server of `cohortlens view`, asked without a socket."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from tasks.ratings.rating import LARGEST, folder_of
from tasks.storage.location import Location
from tasks.viewer.files import OPEN_TO_READERS
from tasks.viewer.server import PAGE_POLICY, make_app
from tests.tasks.outputs import Cohort, carry_out
from tests.tasks.readings import rating_of

TOKEN = "t0ken-" + "x" * 30
NAME = "a #1?%[*]"
AT = f"/{TOKEN}/a%20%231%3F%25%5B%2A%5D"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A finished output with a name that has to be escaped."""
    folder = tmp_path_factory.mktemp("served")
    location = Location(url=str(folder / "outputs" / NAME))
    carry_out(Cohort(folder / "cohort", range(6)).content(location), report=True)
    return location


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page as `make viewer` leaves it."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><script src=app.js></script>")
    (folder / "app.js").write_text("0")
    return folder


def client_of(root: Location, page: Path, **options: Any) -> TestClient:
    app = make_app(root, TOKEN, page=page, **options)
    return TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def client(output: Location, page: Path) -> TestClient:
    return client_of(output, page)


def test_who_has_the_token_gets_page_report_and_store(client: TestClient, output: Location) -> None:
    page = client.get(f"{AT}/viewer/index.html")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and "app.js" in page.text
    assert client.get(f"{AT}/viewer/app.js").headers["content-type"].startswith("text/javascript")
    report = client.get(f"{AT}/report/index.html")
    assert report.content == (output / "report/index.html").read()
    assert "sandbox allow-scripts" in report.headers["content-security-policy"]
    for path in ("explanations.zarr/zarr.json", "explanations.zarr/attribution/c/0/0/0/0/0", "commits/000000.json"):
        assert client.get(f"{AT}/{path}").content == (output / path).read()


@pytest.mark.parametrize("path", ["", "/viewer", "/viewer/", "/"])
def test_the_output_s_own_address_leads_to_its_page(client: TestClient, path: str) -> None:
    assert client.get(f"{AT}{path}").headers["location"] == f"{AT}/viewer/index.html"


@pytest.mark.parametrize("first", ["", "/", "/wrong", f"/{TOKEN}x", f"/{TOKEN[:-1]}", f"/{TOKEN.upper()}", "/é"])
def test_without_the_token_there_is_nothing(client: TestClient, first: str) -> None:
    answer = client.get(f"{first}/{AT.split('/')[2]}/viewer/index.html", headers={"origin": "http://elsewhere.org"})
    assert answer.status_code == 404 and "app.js" not in answer.text
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["elsewhere.org", "127.0.0.1.elsewhere.org:8000", "", "10.0.0.1"])
def test_a_foreign_name_that_leads_here_is_refused(client: TestClient, host: str) -> None:
    assert client.get(f"{AT}/plan.json", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1"])
def test_this_machine_s_names_are_taken_whatever_port_is_forwarded(client: TestClient, host: str) -> None:
    assert client.get(f"{AT}/plan.json", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "manifest.parquet",
        "lease-1.json",
        "%2e%2e/secret",
        "report/%2e%2e/manifest.parquet",
        "report/..%2f..%2f..%2fsecret",
        "/etc/passwd",
        "report//index.html",
        "report/%2e/index.html",
        "report",
        "report/",
        "explanations.zarr",
        "report/index.html%00",
        "report/index.html/x",
        "report/" + "x" * 5000,
        "report/leads-out",
        "report/leads-in",
        "commits/folder/secret",
        "viewer/%2e%2e/%2e%2e/secret",
        "viewer/missing.js",
        f"{folder_of('id-0')}/x.json",
    ],
)
def test_nothing_else_can_be_had(client: TestClient, output: Location, path: str) -> None:
    above = Path(output.path).parent
    (above / "secret").write_text("secret")
    for link, target in (
        ("report/leads-out", above / "secret"),
        ("report/leads-in", output.path + "/manifest.parquet"),
    ):
        Path(output.path, link).unlink(missing_ok=True)
        Path(output.path, link).symlink_to(target)
    folder = Path(output.path, "commits/folder")
    folder.unlink(missing_ok=True)
    folder.symlink_to(above)
    answer = client.get(f"{AT}/{path}")
    folder.unlink()
    assert answer.status_code == 404 and "secret" not in answer.text


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=5-9", 206, 5, 10),
        ("bytes=5-", 206, 5, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=3-99999999", 206, 3, None),
        ("bytes=-99999999", 206, 0, None),
        ("bytes=0-", 206, 0, None),
        ("bytes=0-99999999", 206, 0, None),
        ("bytes=9-5", 200, 0, None),
        ("bytes=-", 200, 0, None),
        ("bytes=0-1,4-5", 200, 0, None),
        ("bytes=٣-٤", 200, 0, None),
        (f"bytes={'9' * 5000}-", 200, 0, None),
        ("lines=1-2", 200, 0, None),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ranges(
    client: TestClient, output: Location, method: str, asked: str, status: int, start: int, stop: int | None
) -> None:
    whole = (output / "explanations.zarr/zarr.json").read()
    answer = client.request(method, f"{AT}/explanations.zarr/zarr.json", headers={"range": asked.encode()})
    part = whole[start:stop]
    assert (answer.status_code, answer.headers["content-length"]) == (status, str(len(part)))
    assert answer.content == (part if method == "GET" else b"")
    assert answer.headers["accept-ranges"] == "bytes"
    first = start % len(whole)
    told = f"bytes {first}-{first + len(part) - 1}/{len(whole)}" if status == 206 else None
    assert answer.headers.get("content-range") == told


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
def test_a_range_beyond_the_end_is_told_the_size(client: TestClient, output: Location, asked: str) -> None:
    answer = client.get(f"{AT}/plan.json", headers={"range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{(output / 'plan.json').size()}"


def test_a_file_that_is_known_is_not_sent_again_until_it_changes(client: TestClient, output: Location) -> None:
    note = output / "report/note.csv"
    note.write(b"one")
    etag = client.get(f"{AT}/report/note.csv").headers["etag"]
    assert client.get(f"{AT}/report/note.csv", headers={"if-none-match": etag}).status_code == 304
    first = {"range": "bytes=0-0", "if-range": etag}
    assert client.get(f"{AT}/report/note.csv", headers=first).text == "o"
    note.write(b"other")
    assert client.get(f"{AT}/report/note.csv", headers={"if-none-match": etag}).text == "other"
    assert client.get(f"{AT}/report/note.csv", headers=first).text == "other"


def test_a_large_file_is_sent_in_stretches(client: TestClient, output: Location) -> None:
    data = bytes(range(256)) * 2**16
    (output / "exports/large").write(data)
    assert client.get(f"{AT}/exports/large").content == data
    assert client.get(f"{AT}/exports/large", headers={"range": "bytes=100-9000000"}).content == data[100:9000001]


def test_every_answer_keeps_other_pages_out(client: TestClient) -> None:
    for path in (f"{AT}/viewer/index.html", f"{AT}/plan.json", f"{AT}/missing", "/", f"/{TOKEN}/"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == PAGE_POLICY
        assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "cross-origin" and headers["x-frame-options"] == "DENY"


def test_pages_of_any_origin_may_read_by_the_address_and_no_more(client: TestClient) -> None:
    there = {"origin": "http://elsewhere.org"}
    answer = client.get(f"{AT}/plan.json", headers=there)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert "content-range" in answer.headers["access-control-expose-headers"]
    asks = there | {"access-control-request-headers": "range", "access-control-request-method": "GET"}
    assert client.options(f"{AT}/plan.json", headers=asks).status_code == 200
    asks["access-control-request-method"] = "POST"
    assert client.options(f"{AT}/ratings", headers=asks).status_code == 400
    assert client.options("/plan.json", headers=asks).status_code == 404


def test_a_folder_lists_its_outputs_as_they_come(output: Location, page: Path) -> None:
    above = output.at(str(Path(output.path).parent))
    Path(above.path, "no output").mkdir(exist_ok=True)
    client = client_of(above, page)
    listed = client.get(f"/{TOKEN}/").text
    assert f'<a href="{AT.split("/")[2]}/viewer/index.html">a #1?%[*]</a>' in listed and "no output" not in listed
    assert client.get(f"{AT}/viewer/index.html").status_code == 200
    assert client.get(f"/{TOKEN}/no%20output/plan.json").status_code == 404
    assert client.get(f"/{TOKEN}/../plan.json").status_code == 404


def test_a_folder_without_outputs_says_so(tmp_path: Path, page: Path) -> None:
    client = client_of(Location(url=str(tmp_path)), page)
    assert "no output here yet" in client.get(f"/{TOKEN}/").text


def test_a_name_is_no_markup(output: Location, page: Path, tmp_path: Path) -> None:
    named = Location(url=str(tmp_path / "outputs" / "<img src=x onerror=alert(1)>"))
    (named / "manifest.parquet").write((output / "manifest.parquet").read())
    assert "<img" not in client_of(named, page).get(f"/{TOKEN}/").text


def test_the_package_s_page_goes_before_that_of_the_output(output: Location, page: Path, tmp_path: Path) -> None:
    (output / "viewer").remove()
    (output / "viewer/app.js").write(b"of another version")
    (output / "viewer/worklist.parquet").write(b"rows")
    assert client_of(output, page).get(f"{AT}/viewer/app.js").text == "0"
    assert client_of(output, page).get(f"{AT}/viewer/worklist.parquet").text == "rows"
    unbuilt = client_of(output, tmp_path / "nothing")
    assert unbuilt.get(f"{AT}/viewer/app.js").text == "of another version"
    answer = unbuilt.get(f"{AT}/viewer/index.html")
    assert answer.status_code == 404 and "make viewer" in answer.text
    (output / "viewer").remove()


def test_ratings_are_saved_once_and_told_to_their_rater(client: TestClient, output: Location) -> None:
    rating = rating_of(output, 1, prediction="agree", comment="Ω", shown=["saliency"], helps=["saliency"])
    assert [client.post(f"{AT}/ratings", json=rating).status_code for _ in range(2)] == [201, 201]
    saved = json.loads((output / folder_of("id-1") / f"{rating['id']}.json").read())
    assert {name: saved[name] for name in rating} == rating
    again = client.post(f"{AT}/ratings", json=rating | {"comment": "other"})
    assert again.status_code == 409 and "already" in again.text
    assert json.loads((output / folder_of("id-1") / f"{rating['id']}.json").read()) == saved
    later = rating_of(output, 1, time="2026-11-26T11:15:00+02:00")
    other = rating_of(output, 1, "reader-b")
    for one in (later, other):
        assert client.post(f"{AT}/ratings", json=one).status_code == 201
    (output / folder_of("id-1") / "damaged.json").write(b"{")
    own = client.get(f"{AT}/ratings", params={"image_id": "id-1", "rater": "reader-a"}).json()
    assert [one["id"] for one in own] == [later["id"], rating["id"]]
    assert client.get(f"{AT}/ratings", params={"image_id": "id-2", "rater": "reader-a"}).json() == []
    assert client.get(f"{AT}/ratings", params={"image_id": "id-1"}).status_code == 400


GRID = {"shape": [16, 16], "runs": [[3, 4], [200, 56]]}


@pytest.mark.parametrize(
    ("changes", "status", "why"),
    [
        ({"version": 2}, 400, "version"),
        ({"id": "../../x"}, 400, "id"),
        ({"id": "A" * 32}, 400, "id"),
        ({"surname": "x"}, 400, "surname"),
        ({"prediction": "yes"}, 400, "prediction"),
        ({"time": "2026-11-26T10:15:00"}, 400, "time"),
        ({"comment": "x" * 4001}, 400, "comment"),
        ({"confidence": 1.1}, 400, "confidence"),
        ({"confidence": float("nan")}, 400, "confidence"),
        ({"shown": ["saliency"], "helps": ["gradcam"]}, 400, "not shown"),
        ({"shown": ["saliency", "saliency"]}, 400, "twice"),
        ({"shown": ["gradcam"]}, 400, "no map in the store"),
        ({"target": "c"}, 400, "target"),
        ({"region": GRID | {"shape": [8, 32]}}, 400, "grid"),
        ({"region": GRID | {"runs": [[250, 7]]}}, 400, "beyond"),
        ({"region": GRID | {"runs": [[4, 3], [6, 1]]}}, 400, "ascending"),
        ({"region": GRID | {"runs": [[4, 0]]}}, 400, "region"),
        ({"region": {"shape": [2**62, 2**62], "runs": [[0, 2**62]]}}, 400, "grid"),
        ({"image_id": "id-3"}, 409, "load the page again"),
        ({"image_id": "../../x"}, 409, "load the page again"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_rating_of_the_store_is_not_taken(
    client: TestClient, output: Location, changes: dict[str, Any], status: int, why: str
) -> None:
    before = output.sizes()
    body = json.dumps(rating_of(output, 2) | changes)
    answer = client.post(f"{AT}/ratings", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, why in answer.text) == (status, True), answer.text
    assert output.sizes() == before


@pytest.mark.parametrize(
    "change",
    [{"shard": 1}, {"shard": 10**30}, {"row": "0" * 16}, {"parts": ["0" * 64]}],
    ids=["another shard", "no shard", "another image", "other maps"],
)
def test_a_rating_of_another_store_is_not_taken(client: TestClient, output: Location, change: dict[str, Any]) -> None:
    rating = rating_of(output, 2)
    rating["seen"] |= change
    assert client.post(f"{AT}/ratings", json=rating).status_code == 409


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/json", "origin": "http://elsewhere.org"}, b"{}", 403),
        ({"content-type": "application/json", "origin": "null"}, b"{}", 403),
        ({"content-type": "application/json", "origin": "http://[elsewhere.org"}, b"{}", 403),
        ({"content-type": "application/json", "origin": "http://127.0.0.1:8000"}, b"{}", 400),
        ({"content-type": "Application/JSON; charset=utf-8"}, b"{}", 400),
        ({"content-type": "application/json"}, b"\xff", 400),
        ({"content-type": "application/json"}, b"[" * 100_000, 400),
        ({"content-type": "application/json"}, b" " * (LARGEST + 1), 413),
    ],
)
def test_only_small_json_of_its_own_pages_is_looked_at(
    client: TestClient, headers: dict[str, str], body: bytes, status: int
) -> None:
    assert client.post(f"{AT}/ratings", content=body, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("number", "status", "why"),
    [
        (errno.EACCES, 403, "nothing may be written"),
        (errno.EROFS, 403, "nothing may be written"),
        (errno.ENOSPC, 507, "the disk is full"),
        (errno.ENAMETOOLONG, 403, "too long"),
        (errno.EIO, 503, "does not answer"),
    ],
)
def test_why_a_rating_cannot_be_saved_is_said_and_no_path_is_logged(
    client: TestClient,
    output: Location,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    status: int,
    why: str,
) -> None:
    def refuse(self: Location, data: bytes) -> bool:
        raise OSError(number, "so it is", self.path)

    rating = rating_of(output, 3)
    monkeypatch.setattr(Location, "create", refuse)
    answer = client.post(f"{AT}/ratings", json=rating)
    assert answer.status_code == status and why in answer.text
    assert "id-3" not in caplog.text + answer.text


@pytest.mark.parametrize("target", ["*", "", "plan.json", f"{TOKEN}/x"])
def test_a_target_that_is_no_path_is_answered(output: Location, page: Path, target: str) -> None:
    said, _ = _asked(make_app(output, TOKEN, page=page), target, [])
    assert said[0]["status"] == 404


def test_a_rating_that_does_not_come_whole_is_no_fault(output: Location, page: Path) -> None:
    events: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    path = f"/{TOKEN}/{NAME}/ratings"
    said, left = _asked(make_app(output, TOKEN, page=page), path, events, "POST")
    assert (said[0]["status"], left) == (400, [])


def _asked(app: ASGIApp, path: str, events: list[Message], method: str = "GET") -> tuple[list[Message], list[Message]]:
    """Ask for a target as a server passes it on; returns what was answered, and the events that were not looked at."""
    said: list[Message] = []

    async def receive() -> Message:
        return events.pop(0)

    async def send(message: Message) -> None:
        said.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    anyio.run(app, scope, receive, send)
    return said, events


def test_the_token_alone_leads_to_the_list_by_a_path_that_a_proxy_keeps(client: TestClient) -> None:
    assert client.get(f"/{TOKEN}").headers["location"] == f"{TOKEN}/"


def test_an_output_that_was_deleted_is_said_to_be_gone(output: Location, page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(output.path, copy)
    client, rating = client_of(Location(url=str(copy)), page), rating_of(output, 3)
    assert client.get(f"/{TOKEN}/copy/plan.json").status_code == 200
    shutil.rmtree(copy)
    answer = client.post(f"/{TOKEN}/copy/ratings", json=rating)
    assert answer.status_code == 404 and "not there any more" in answer.text
    assert not copy.exists()


def test_a_link_in_a_folder_of_outputs_leads_nowhere(output: Location, page: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(output.path)
    assert client_of(Location(url=str(tmp_path)), page).get(f"/{TOKEN}/linked/plan.json").status_code == 404
    assert client_of(Location(url=str(tmp_path / "linked")), page).get(f"/{TOKEN}/linked/plan.json").status_code == 200


def test_a_file_that_is_written_anew_while_it_is_sent_is_not_mixed(
    client: TestClient, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    file, read = output / "exports/large", LocalFileSystem.cat_file

    def read_then_write(self: Any, *arguments: Any, **options: Any) -> bytes:
        data: bytes = read(self, *arguments, **options)
        file.write(b"2" * 2**23)
        return data

    file.write(b"1" * 2**23)
    monkeypatch.setattr(LocalFileSystem, "cat_file", read_then_write)
    assert len(client.get(f"{AT}/exports/large").content) < 2**23  # the answer breaks off


def test_storage_that_does_not_answer_is_no_missing_file(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    def fail(kind: type[OSError]) -> Callable[..., Any]:
        def read(*arguments: Any, **options: Any) -> Any:
            raise kind("away")

        return read

    for kind, status in ((OSError, 503), (PermissionError, 403)):
        monkeypatch.setattr(LocalFileSystem, "cat_file", fail(kind))
        assert client.get(f"{AT}/plan.json").status_code == status


def test_what_is_open_to_readers_holds_no_key() -> None:
    assert not {"manifest.parquet", "ratings", "staged"} & OPEN_TO_READERS
