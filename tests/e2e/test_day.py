"""A day of the topology's life: `make up`, deployments, the schedule, trouble of several kinds, alarms, `make down`.

The tests belong together and run in this order; each says how long it took in a table at the end.
"""

import copy
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd
import psutil
import pytest
import xarray as xr

from tasks.demo.cohort import write_cohort
from tasks.report.drift import TABLE
from tasks.storage.lease import NAME as LEASE
from tasks.storage.location import Location
from tasks.store import commit
from tasks.upkeep.verify import verify
from tests.e2e.topology import ENDED, PATIENCE, Topology, print_table, receiver, wait

NIGHTLY, BACKFILL = "explain-cohort/explain-nightly", "explain-cohort/explain-backfill"
MISSED_SECONDS = 75
BLOCK = "ops"
_TIMES: dict[str, float] = {}


@pytest.fixture(scope="module")
def alerts() -> Iterator[tuple[str, list[str]]]:
    with receiver() as started:
        yield started


@pytest.fixture(scope="module")
def day(alerts: tuple[str, list[str]]) -> Iterator[Topology]:
    # Not in pytest's folder, which only its user may enter: PostgreSQL runs as another one where that is root.
    home = Path(mkdtemp(prefix="cohortlens-day-"))
    home.chmod(0o755)
    topology = Topology(
        home,
        ALERT_WEBHOOK=alerts[0],
        ALERT_BLOCK=f"custom-webhook/{BLOCK}",
        NIGHTLY="* * * * *",
        HEARTBEAT_MISSED_SECONDS=str(MISSED_SECONDS),
    )
    try:
        yield topology
    finally:
        topology.make("down")
        shutil.rmtree(home)
        print_table(_TIMES)


@pytest.fixture(autouse=True)
def timed(request: pytest.FixtureRequest) -> Iterator[None]:
    began = time.monotonic()
    yield
    _TIMES[request.node.name.removeprefix("test_").replace("_", " ")] = time.monotonic() - began


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    write_cohort(folder, images=96, spatial_dims=2, damaged=0)
    return sorted(path for path in folder.glob("phantom-*") if "mask" not in path.name)


def drop(day: Topology, paths: list[Path], prefix: str = "demo") -> None:
    for path in paths:
        day.at(f"s3://cohorts/{prefix}/{path.name}").write(path.read_bytes())


def opened(day: Topology, output: str) -> xr.Dataset:
    return xr.open_zarr(f"s3://results/{output}/explanations.zarr", storage_options={"endpoint_url": day.endpoint})


def maps(output: Location) -> dict[str, str]:
    return {path: stamp for path, stamp in (output / "explanations.zarr/attribution").stamps().items() if "c/" in path}


def long_run(day: Topology, output: str) -> dict[str, Any]:
    """A configuration that takes a minute or so, on an output of its own."""
    config: dict[str, Any] = copy.deepcopy(day.deployment(BACKFILL)["parameters"]["config"])
    config["cohort"]["source"]["url"] = "s3://cohorts/long/"
    config["output"]["url"] = f"s3://results/{output}"
    return config | {"explainers": [{"name": "rise", "samples": 200}], "metrics": [], "compute": config["compute"]}


def delivered(output: Location) -> dict[int, str]:
    return commit.stamps(output)


def test_make_up_is_ready_in_90_seconds(day: Topology) -> None:
    began = time.monotonic()
    said = day.make("up")
    assert time.monotonic() - began < 90 * PATIENCE
    assert day.api.removesuffix("/api") in said and f"{day.dashboard}/status" in said and day.endpoint in said
    assert "nothing is running" not in day.make("up")  # once more does no harm
    day.take_keys()


def test_make_deploy_again_and_again(day: Topology, images: list[Path], alerts: tuple[str, list[str]]) -> None:
    drop(day, images[:32])
    day.save_block(BLOCK, alerts[0])
    day.make("deploy")
    day.make("deploy")
    assert len(day.ask("automations/filter", {})) == 4
    day.ask(f"deployments/{day.deployment(NIGHTLY)['id']}", {"paused": True}, "PATCH")
    names = {deployment["name"] for deployment in day.ask("deployments/filter", {})}
    assert names == {"explain-nightly", "explain-backfill", "evaluate", "verify", "train-reference"}
    queues = day.ask("work_pools/cohortlens/queues/filter", {})
    assert {queue["name"]: queue["concurrency_limit"] for queue in queues}["demo"] == 1


def test_the_schedule_fires_and_the_result_is_read_with_xarray_alone(day: Topology) -> None:
    scheduled = next_scheduled(day)
    assert day.end(scheduled) == "COMPLETED"
    dataset = opened(day, "demo")
    assert dataset.sizes["image_id"] == 32
    assert (dataset.status == dataset.status.attrs["flag_values"][1]).all(), dataset.status.attrs
    assert bool(dataset.attribution.notnull().all())
    shown = day.artifacts(scheduled)
    for key in ("report", "viewer", "cases"):
        (address,) = re.findall(r"https?://[^)\s]+", shown[key])
        assert urllib.request.urlopen(address, timeout=10).status == 200


def next_scheduled(day: Topology) -> str:
    """Let the schedule make one run that knows of what lies there now; then stop it again."""
    deployment = day.deployment(NIGHTLY)["id"]
    day.ask(f"deployments/{deployment}", {"paused": False}, "PATCH")
    began = time.time()

    def ours() -> list[Any]:
        query = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}}
        runs = day.ask("flow_runs/filter", query | {"deployments": {"id": {"any_": [deployment]}}})
        return [run for run in runs if pd.Timestamp(run["expected_start_time"]).timestamp() > began]

    try:
        wait(ours, 200)
    finally:
        day.ask(f"deployments/{deployment}", {"paused": True}, "PATCH")
    run = ours()[0]
    assert run["auto_scheduled"]
    return str(run["id"])


def test_of_more_images_only_those_are_explained_and_two_alarms_call_the_webhook(
    day: Topology, images: list[Path], alerts: tuple[str, list[str]], tmp_path: Path
) -> None:
    output = day.at("s3://results/demo")
    before = maps(output)
    rubbish = [tmp_path / f"rubbish-{number}.png" for number in range(3)]
    for path in rubbish:
        path.write_bytes(b"not an image")
    drop(day, [*images[32:44], *rubbish])  # 3 of 47 are more than the 5 % that are allowed, of too few to end the run
    table = pd.read_csv(str(output / TABLE), storage_options={"endpoint_url": day.endpoint})
    table["high"] = table["mean"] - 0.05  # as if the run before had been better than it was
    (output / TABLE).write(table.to_csv(index=False).encode())
    assert day.end(next_scheduled(day)) == "COMPLETED"
    after = maps(output)
    assert before.items() <= after.items()
    assert len(after) > len(before)
    assert opened(day, "demo").sizes["image_id"] == 47
    texts = alerts[1]
    wait(lambda: len([text for text in texts if "by block" not in text]) >= 2, 60)
    assert any("More was quarantined than is allowed" in text and "3 of 47 images" in text for text in texts), texts
    wait(lambda: any(text.startswith("by block: More was quarantined than is allowed") for text in texts), 60)
    assert any("The evidence is worse" in text and "deletion of gradcam" in text for text in texts), texts


def test_a_metric_is_added_by_a_deployment(day: Topology) -> None:
    assert "metric_entropy" not in opened(day, "demo")
    assert day.end(day.start("evaluate-cohort/evaluate", metrics=[{"name": "entropy"}])) == "COMPLETED"
    dataset = opened(day, "demo")
    assert bool(dataset.metric_entropy.sel(explainer="gradcam").notnull().sum() == 44)
    assert dataset.sizes["image_id"] == 47


def test_a_killed_worker_and_a_server_that_is_away_for_30_seconds_lose_nothing(
    day: Topology, images: list[Path]
) -> None:
    drop(day, images[:64], "long")
    output = day.at("s3://results/trouble")
    run = day.start(BACKFILL, config=long_run(day, "trouble"))
    wait(lambda: delivered(output) or day.state(run)["type"] in ENDED, 150)
    nanny = day.process("dask-worker:dask-worker-1")
    for process in [*nanny.children(recursive=True), nanny]:
        process.kill()
    day.supervisor.stopProcess("prefect-server")
    time.sleep(30)
    day.supervisor.startProcess("prefect-server")
    wait(lambda: answers(day), 60)
    assert day.end(run) == "COMPLETED"
    assert day.process("dask-worker:dask-worker-1").pid != nanny.pid
    assert verify(output) == []
    assert opened(day, "trouble").sizes["image_id"] == 64


def answers(day: Topology) -> bool:
    try:
        return bool(day.ask("health"))
    except OSError:
        return False


def test_a_server_that_is_away_when_a_run_ends_is_waited_for(day: Topology) -> None:
    """The last that a run writes is its report; the server goes while it is written."""
    output = day.at("s3://results/demo")
    (output / "report/index.html").remove()
    run = day.start(BACKFILL)
    wait(lambda: day.state(run)["type"] == "RUNNING", 120)
    wait(lambda: "finish" in str(day.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})), 60)
    day.supervisor.stopProcess("prefect-server")
    wait((output / "report/index.html").exists, 60)
    time.sleep(30)
    day.supervisor.startProcess("prefect-server")
    wait(lambda: answers(day), 60)
    assert day.end(run) == "COMPLETED"


def test_a_run_whose_process_hangs_is_noticed(day: Topology, alerts: tuple[str, list[str]]) -> None:
    """The run is in a queue of its own; its end is looked at last."""
    run = day.start("train-reference/train-reference", config={"images": 200_000})
    wait(lambda: day.state(run)["type"] == "RUNNING", 120)
    heard = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    wait(lambda: day.ask("events/filter", {"filter": heard})["total"], 60)
    process = day.process_of(run)
    process.send_signal(signal.SIGSTOP)
    day.hung = (run, process)  # type: ignore[attr-defined]


def test_a_cancelled_run_stops_within_a_minute_and_is_gone_on_with(day: Topology) -> None:
    output = day.at("s3://results/cancelled")
    run = day.start(BACKFILL, config=long_run(day, "cancelled"))
    wait(lambda: delivered(output) or day.state(run)["type"] in ENDED, 150)
    day.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait(lambda: day.state(run)["type"] in ENDED and not day.tasks_at_work, 60)
    assert day.state(run)["type"] == "CANCELLED"
    there = delivered(output)
    time.sleep(5)
    assert delivered(output) == there
    assert 0 < len(there) < 4
    assert not [name for name in output.names() if name.startswith(LEASE)]
    assert {damage.problem for damage in verify(output)} <= {"no valid commit"}
    assert day.end(day.start(BACKFILL, config=long_run(day, "cancelled"))) == "COMPLETED"
    assert there.items() <= delivered(output).items()
    assert verify(output) == []


def test_damage_is_found_and_told(day: Topology, alerts: tuple[str, list[str]]) -> None:
    output = day.at("s3://results/demo")
    damaged = sorted(maps(output))[0]
    place = output / f"explanations.zarr/attribution/{damaged}"
    place.write(place.read()[:-1] + b"!")
    run = day.start("verify-output/verify")
    assert day.end(run) == "FAILED"
    assert "its bytes changed" in str(day.artifacts(run)["damage"])
    wait(lambda: any("A run failed or crashed: verify" in text for text in alerts[1]), 60)


def test_the_hung_run_is_marked_as_crashed(day: Topology, alerts: tuple[str, list[str]]) -> None:
    run, process = day.hung  # type: ignore[attr-defined]
    try:
        wait(lambda: day.state(run)["type"] == "CRASHED", MISSED_SECONDS + 60)
        wait(lambda: any("A run failed or crashed: train-reference" in text for text in alerts[1]), 60)
    finally:
        process.kill()


def test_no_alert_names_an_image(alerts: tuple[str, list[str]]) -> None:
    assert len(alerts[1]) >= 4
    assert not [text for text in alerts[1] if "phantom" in text or "rubbish" in text]


def test_make_down_leaves_no_process_and_make_up_finds_what_was_stored(day: Topology) -> None:
    day.make("down")
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in left if str(day.home) in str(command)]
    began = time.monotonic()
    day.make("up")
    assert time.monotonic() - began < 90 * PATIENCE
    assert day.ask("flow_runs/count", {}) > 5
    assert opened(day, "demo").sizes["image_id"] == 47


def test_a_backup_is_restored_into_an_empty_place_and_the_next_run_explains_nothing(day: Topology) -> None:
    output, runs = day.at("s3://results/trouble"), day.ask("flow_runs/count", {})
    before = maps(output)
    backup = day.home / "backup"
    day.local("backup", str(backup))
    day.make("down")
    for stored in ("postgres", "seaweedfs", "secrets.env"):
        (shutil.rmtree if (day.home / stored).is_dir() else Path.unlink)(day.home / stored)
    shutil.copy2(backup / "secrets.env", day.home)
    day.make("up")
    day.local("restore", str(backup))
    assert day.ask("flow_runs/count", {}) >= runs
    assert maps(output) == before
    assert day.end(day.start(BACKFILL, config=long_run(day, "trouble"))) == "COMPLETED"
    assert maps(output) == before
    assert verify(output) == []
