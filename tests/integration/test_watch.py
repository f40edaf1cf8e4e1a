"""A run whose workers are elsewhere is seen in Prefect's UI, in their logs and by Prometheus."""

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from flows.config import RunConfig
from flows.shards import PERFORMANCE_REPORT
from tasks import report
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.integration.processes import Cluster, ask, dask_cluster
from tests.tasks.outputs import Cohort


@pytest.fixture(scope="module")
def elsewhere(prefect: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and a worker whose environment knows of ours where Prefect's server is, and nothing else."""
    # Without Prefect's address, a worker would start a server of its own, as docs/watch.md says.
    known = {"PREFECT_API_URL": prefect, "COHORTLENS_LOGS": "json"}
    with dask_cluster(tmp_path_factory.mktemp("elsewhere"), known, dashboards=True) as started:
        yield started


@dataclass
class Seen:
    """A run, and what Prefect's server knows of it."""

    output: Location
    cohort: Cohort
    run_id: str
    logs: list[dict[str, Any]]
    artifacts: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def seen(elsewhere: Cluster, prefect: str, bucket_of_module: Location, tmp_path_factory: Any) -> Seen:
    from prefect.logging.handlers import APILogHandler

    from flows.explain import explain_cohort

    folder = tmp_path_factory.mktemp("watched")
    cohort = Cohort(folder / "cohort", range(40))
    np.save(folder / "cohort/7.npy", np.zeros((3, 3), np.float32))  # another shape, found when it is prepared
    output = bucket_of_module / "out"
    content = cohort.content(
        output,
        cohort={"source": str(cohort.folder / "manifest.csv"), "allowed_failures": 1.0},
        metrics=["gini"],
        batch_size=4,
        output_url="https://reports.example.org/chest/",
        compute={
            "scheduler": elsewhere.address,
            "performance_report": True,
            "prices": {"currency": "EUR", "cpu_hour": 36.0, "thousand_puts": 1000.0},
        },
    )
    explain_cohort(RunConfig.model_validate(content))
    APILogHandler().flush()
    run_id = Plan.read(output).run_id
    logs = ask(prefect, "logs/filter", {"limit": 200, "logs": {"flow_run_id": {"any_": [run_id]}}})
    found = ask(prefect, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
    return Seen(output, cohort, run_id, logs, {artifact["key"]: artifact for artifact in found})


@pytest.fixture(scope="module")
def bucket_of_module(s3_endpoint: str) -> Location:
    location = Location(url="s3://watched", endpoint_url=s3_endpoint)
    location.filesystem.mkdir("watched")
    return location


def quarantined(output: Location) -> str:
    (id,) = [entry.id for entry in manifest.read(output) if entry.reason]
    assert re.fullmatch("[0-9a-f]{16}", id)
    return id


def test_logs_of_workers_elsewhere_are_in_the_runs_log(seen: Seen) -> None:
    said = {(log["name"], log["message"]) for log in seen.logs if log["task_run_id"]}
    for shard in range(3):  # by the thread that writes, and by the one that explains
        images = 8 if shard == 2 else 16
        assert ("tasks.work.explain", f"shard {shard} committed: {images} images") in said
        assert ("tasks.work.evaluate", f"shard {shard} evaluated: {images} images") in said
    assert any(text.startswith(f"image {quarantined(seen.output)} is quarantined: shape") for _, text in said)


def test_a_worker_logs_json_lines_with_run_shard_and_image(seen: Seen, elsewhere: Cluster) -> None:
    lines = [json.loads(line) for line in elsewhere.said.splitlines() if line.startswith("{")]
    committed = [line for line in lines if "committed" in line["message"]]
    assert {line["shard"] for line in committed} == {0, 1, 2}
    assert {line["run"] for line in committed} == {seen.run_id}
    assert {"timestamp", "level", "logger"} <= committed[0].keys()
    (left_out,) = [line for line in lines if "image" in line]
    assert (left_out["image"], left_out["shard"], left_out["level"]) == (quarantined(seen.output), 0, "WARNING")
    text = elsewhere.said
    assert "id-7" not in text and str(seen.cohort.folder) not in text
    assert {"shard 1 of 3", "shard 2 of 3"} <= {line.get("task_run_name") for line in lines}  # Prefect's own, too


def test_prometheus_is_served_by_the_worker(seen: Seen, elsewhere: Cluster) -> None:
    with urllib.request.urlopen(elsewhere.metrics, timeout=60) as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}

    def values(name: str, label: str) -> dict[str, float]:
        return {
            sample.labels[label]: sample.value for sample in families[name].samples if sample.name == f"{name}_total"
        }

    assert values("cohortlens_images", "status") == {"explained": 39, "quarantined": 1}
    assert values("cohortlens_stage_seconds", "stage").keys() == {"read", "explain", "write", "evaluate"}
    assert values("cohortlens_s3_requests", "operation")["PutObject"] > 10
    stored = next(sample.value for sample in families["cohortlens_stored_bytes"].samples)
    assert stored > 10_000
    assert "dask_worker_threads" in families  # beside Dask's own


def test_the_ui_shows_progress_account_and_pictures(seen: Seen) -> None:
    progress = seen.artifacts["images"]
    assert progress["data"] == 100
    assert re.fullmatch(r"40 of 40 images, [\d.e+-]+ images/s", progress["description"])
    table = {row[""]: row["value"] for row in json.loads(seen.artifacts["summary"]["data"])}
    assert (table["explained"], table["quarantined"], table["delivered by this run"]) == (39, 1, 40)
    assert table["delivered before"] == table["failed"] == 0
    assert table["GPU seconds"] == 0 and table["CPU seconds"] > 0
    cost, currency = table["cost of CPUs"].split()
    assert float(cost) == pytest.approx(table["CPU seconds"] / 100, abs=0.001) and currency == "EUR"
    assert table["cost of PUT requests"] == f"{table['S3 PUT requests']:.4g} EUR"
    assert not [name for name in table if "GPUs" in name or "storage" in name or name == "cost of GET requests"]
    assert "https://reports.example.org/chest/report/index.html" in seen.artifacts["report"]["data"]
    assert seen.artifacts["cases"]["data"] == "https://reports.example.org/chest/report/cases.png"


def test_the_picture_shows_the_first_cases_and_goes_with_a_withdrawn_subject(seen: Seen) -> None:
    picture = (seen.output / report.PICTURE).read()
    page = np.asarray(Image.open(BytesIO(picture)))
    assert page.shape[0] > 4 * 160 and len(np.unique(page.reshape(-1, 3), axis=0)) > 100
    assert verify(seen.output) == []
    performance = (seen.output / PERFORMANCE_REPORT).read().decode()
    assert "Task Stream" in performance and "id-7" not in performance and str(seen.cohort.folder) not in performance
    for subject in {f"patient-{number}" for number in range(20)}:
        withdraw(seen.output, subject)
        if (seen.output / report.PICTURE).read() != picture:
            break
    else:
        pytest.fail("the picture stayed, whoever was withdrawn")
    assert verify(seen.output) == []
