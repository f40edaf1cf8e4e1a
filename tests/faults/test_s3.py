"""S3 that fails, is away, or does not take the credentials any more; through a proxy before a real server."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import REGISTRY

from flows.cli import main
from tasks.report import write_report
from tasks.storage import lease as lease_module
from tasks.storage import s3
from tasks.storage.location import CredentialsRefused, Location, Unavailable
from tasks.storage.s3 import PatientS3
from tasks.upkeep.verify import verify
from tests.faults.conftest import FEW, SOAK, Measured
from tests.faults.proxy import FAULTS, FaultyS3
from tests.integration.processes import wait
from tests.tasks.outputs import Cohort, carry_out

IMAGES = FEW
AWAY_SECONDS = 60 if SOAK else 6

Content = Callable[[Location], dict[str, Any]]


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3_endpoint).serving() as proxy:
        yield proxy
    PatientS3.clear_instance_cache()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice stalls sooner."""
    monkeypatch.setattr(s3, "ANSWER_SECONDS", 0.3)


@pytest.fixture
def through(proxy: FaultyS3, bucket: Location) -> Location:
    """The bucket as seen through the proxy."""
    return Location(url=bucket.url, endpoint_url=proxy.url)


@pytest.fixture(scope="module")
def on_s3(cohort: Cohort, s3_endpoint: str) -> Location:
    """The folder of the cohort in a bucket of its own."""
    folder = Location(url="s3://faults-cohort/cohort", endpoint_url=s3_endpoint)
    folder.filesystem.mkdir("faults-cohort")
    for path in cohort.folder.glob("*.*"):
        (folder / path.name).write(path.read_bytes())
    return folder


def read_from(content: Content, manifest: Location) -> Content:
    """The configuration of a run whose cohort lies on S3, too."""
    source = manifest.model_dump()
    return lambda output: content(output) | {"cohort": {"source": source, "identifiers": "as given"}}


@pytest.fixture
def from_s3(content: Content, on_s3: Location, through: Location) -> Content:
    """The configuration of a run whose cohort lies behind the proxy, too."""
    return read_from(content, through.at(on_s3.url) / "manifest.csv")


@pytest.fixture(scope="module")
def requests(content: Content, on_s3: Location, s3_endpoint: str) -> dict[str, int]:
    """The number of requests of the undisturbed run, by where the cohort lies; and of its report."""
    found = {}
    with FaultyS3(s3_endpoint).serving() as proxy:
        through = on_s3.at("s3://faults-undisturbed").model_copy(update={"endpoint_url": proxy.url})
        through.filesystem.mkdir("faults-undisturbed")
        for place, configured in (
            ("local", content),
            ("S3", read_from(content, through.at(on_s3.url) / "manifest.csv")),
        ):
            proxy.requests = 0
            carry_out(configured(through / place))
            found[place] = proxy.requests
        proxy.requests = 0
        write_report(through / place)
        found["report"] = proxy.requests
    PatientS3.clear_instance_cache()
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fifth_of_the_requests_fails(
    fault: str,
    content: Content,
    requests: dict[str, int],
    proxy: FaultyS3,
    through: Location,
    bucket: Location,
    measured: Measured,
    rounds: range,
    impatient: None,
) -> None:
    proxy.faults, proxy.share, proxy.stall = (fault,), 0.2, 0.6
    for seed in rounds:
        carry_out(content(through / str(seed)))
    measured(
        f"S3: {fault} (requests)",
        proxy.injected.total(),
        [bucket / str(seed) for seed in rounds],
        proxy.requests / (requests["local"] * len(rounds)),
    )


def test_a_fifth_of_all_requests_fails_somehow_those_of_the_report_too(
    from_s3: Content,
    requests: dict[str, int],
    proxy: FaultyS3,
    through: Location,
    bucket: Location,
    measured: Measured,
    impatient: None,
) -> None:
    proxy.faults, proxy.share, proxy.stall = FAULTS, 0.2, 0.6
    summary = carry_out(from_s3(through / "out"), report=True)
    proxy.share = 0.0
    assert summary.quarantined == 0
    work = proxy.requests / (requests["S3"] + requests["report"])
    assert verify(bucket / "out") == []
    measured("S3: all of these (requests)", proxy.injected.total(), [bucket / "out"], work)


def test_away_for_a_while(
    from_s3: Content,
    requests: dict[str, int],
    proxy: FaultyS3,
    through: Location,
    bucket: Location,
    measured: Measured,
) -> None:
    def outage() -> None:
        while proxy.requests < requests["S3"] // 2:
            time.sleep(0.01)
        proxy.go_away()
        time.sleep(AWAY_SECONDS)
        proxy.come_back()

    away = threading.Thread(target=outage)
    away.start()
    summary = carry_out(from_s3(through / "out"))
    away.join()
    assert summary.quarantined == 0
    measured(f"S3 away for {AWAY_SECONDS} s (requests)", 1, [bucket / "out"], proxy.requests / requests["S3"])


def test_credentials_that_expire_end_the_run_at_once_and_new_ones_go_on(
    from_s3: Content,
    requests: dict[str, int],
    proxy: FaultyS3,
    through: Location,
    bucket: Location,
    measured: Measured,
) -> None:
    undisturbed = requests["S3"]
    outputs, asked = [], 0
    moments = range(1, undisturbed, 7 if SOAK else undisturbed // 3)
    for moment in moments:
        proxy.requests, proxy.expires_after, refused = 0, moment, proxy.injected["expired token"]
        with pytest.raises(CredentialsRefused, match=r"ExpiredToken.*renew them"):
            carry_out(from_s3(through / str(moment)))
        assert proxy.injected["expired token"] - refused < 40
        proxy.expires_after = None
        PatientS3.clear_instance_cache()
        assert carry_out(from_s3(through / str(moment))).quarantined == 0
        asked += proxy.requests
        outputs.append(bucket / str(moment))
    measured("S3: credentials expire (requests)", len(moments), outputs, asked / (undisturbed * len(moments)))


def test_what_cannot_be_asked_is_not_called_damaged(content: Content, proxy: FaultyS3, through: Location) -> None:
    output = through / "out"
    carry_out(content(output))
    proxy.requests = 0
    assert verify(output) == []
    needed = proxy.requests
    for moment in range(0, needed, max(1, needed // (12 if SOAK else 4))):
        proxy.requests, proxy.expires_after = 0, moment
        PatientS3.clear_instance_cache()
        with pytest.raises(CredentialsRefused):
            verify(output)
        told = CliRunner().invoke(main, ["verify", output.url, "--endpoint-url", proxy.url, "--repair"])
        assert told.exit_code == 3 and "renew them" in told.output and "Traceback" not in told.output
    proxy.expires_after = None
    PatientS3.clear_instance_cache()
    assert verify(output) == []


def test_a_withdrawal_whose_credentials_expire_says_so_and_is_gone_on_with(
    content: Content, proxy: FaultyS3, through: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module.Holder, "died", lambda self: True)  # the last one has ended, with its lease

    def withdraw(output: Location) -> Any:
        PatientS3.clear_instance_cache()
        command = ["withdraw", output.url, "--endpoint-url", proxy.url, "--subject", "patient-3"]
        return CliRunner().invoke(main, command)

    carry_out(content(through / "out"))
    for moment in (0, 4, 12, 30, 60) if SOAK else (0, 12, 60):
        proxy.requests, proxy.expires_after = 0, moment
        told = withdraw(through / "out")
        assert told.exit_code == 3, told.output
        assert told.output.count("\n") == 1 and "renew them" in told.output
    proxy.expires_after = None
    assert "images erased" in withdraw(through / "out").output
    assert verify(through / "out") == []


def test_a_file_that_was_created_though_nobody_said_so_is_ours(proxy: FaultyS3, through: Location) -> None:
    proxy.faults, proxy.share = ("lost answer",), 0.5
    for number in range(20):
        assert (through / f"{number}").create(b"ours")
        assert not (through / f"{number}").create(b"theirs")
        assert (through / f"{number}").read() == b"ours"


def test_requests_and_their_repetitions_are_counted(proxy: FaultyS3, through: Location) -> None:
    def counted() -> tuple[float, float]:
        samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
        names = ("cohortlens_s3_requests_total", "cohortlens_s3_retries_total")
        requests, retries = (sum(sample.value for sample in samples if sample.name == name) for name in names)
        return requests, retries

    (through / "file").write(b"content")
    proxy.requests, (requests, retries) = 0, counted()
    proxy.faults, proxy.share = ("500", "503"), 0.5
    for _ in range(10):
        assert (through / "file").read() == b"content"
    assert counted() == (requests + proxy.requests, retries + proxy.injected.total())
    assert proxy.injected.total() > 3


def test_a_run_keeps_its_lease_while_s3_is_away(
    proxy: FaultyS3, through: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(PatientS3, "retries", 2)
    with lease_module.lease(through / "out", "first") as held:
        proxy.go_away()
        time.sleep(1)
        proxy.come_back()
        (name,) = (through / "out").names()
        before = (through / "out" / name).read()
        wait(lambda: (through / "out" / name).read() != before)
        assert held()


def test_what_never_answers_is_an_error_that_says_so(
    proxy: FaultyS3, through: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientS3, "retries", 3)
    for fault in ("500", "503", "reset", "short body"):
        (through / "file").write(b"content")
        proxy.faults, proxy.share = (fault,), 1.0
        with pytest.raises(Unavailable, match=r"S3 (did not answer|answered).*all attempts"):
            (through / "file").read()
        proxy.share = 0.0
