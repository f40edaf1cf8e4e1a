"""The costs of a run beside the explaining, at 10,000, 100,000 and 1,000,000 images, and how they grow.

The flow is the real one: Prefect's server, a Dask cluster of two workers, plan, manifest, store and commits on a real
S3 server. Two things are stood in for: the explaining (`tests.benchmarks.stub`: whole shards of zeros, 8 x 8 an image)
and, so that no million files have to be written, the survey: its entries are made, each with the facts of one file. The
size of shards is the plan's own.

At last 100,000 real files of 8 x 8 are surveyed and delivered, and the run is done once more onto what is there. What
10,000,000 images take to be planned is measured by `tests.benchmarks.planning`.

Requests to S3 are those that the S3 server counts, those to Prefect the lines of its server's log; memory is the peak
of the flow's process, which holds Dask's scheduler as well. CPU seconds are those of the flow's process and of the
workers, without the servers: they hardly change with what else the machine does, as the other seconds do.
"""

import hashlib
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flows.server import prefect_server
from tasks.cohort import entry
from tasks.cohort.entry import Entry, Fact
from tasks.cohort.packed import PackedMapping
from tasks.cohort.packed_entries import Entries
from tasks.cohort.sources import Source, Sources
from tasks.storage.location import Location
from tests.integration.processes import ask
from tests.seaweedfs import SeaweedFS, seaweedfs

SIZES = (10_000, 100_000, 1_000_000)
FILES = 100_000
WORKERS = 2
BUCKET = "scale"
SHAPE = (8, 8)
STAGES = ("plan", "set up the store", "shards", "finish", "report")
GOALS = {"ms an image": 1.0, "MiB": 2048, "task runs": 300}

_NETWORK = {
    "_target_": "monai.networks.nets.Classifier",
    "in_shape": [1, *SHAPE],
    "classes": 2,
    "channels": [4],
    "strides": [2],
}


def main(sizes: tuple[int, ...] = SIZES, files: int = FILES) -> None:
    """Print a table of the sizes, how each column grows, and what it takes to finish a finished run."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret-4711",
        "AWS_REGION": "us-east-1",
        "COHORTLENS_PSEUDONYM_KEY": "not-a-secret-either-0815",
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",  # a line a request
        "DASK_DISTRIBUTED__WORKER__PRELOAD": '["tests.benchmarks.stub"]',
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "300s",  # other work on the machine is not to end the run
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "300s",
    }
    with tempfile.TemporaryDirectory(dir=".") as name, prefect_server(Path(name)) as server_url:
        folder = Path(name).resolve()
        (folder / "s3").mkdir()
        with seaweedfs(folder / "s3") as s3:
            server_url()
            print_table([measured(folder, s3, "survey made", size) for size in sizes])
            if files:
                write_files(folder / "cohort", files)
                print_table([measured(folder, s3, what, files) for what in ("real files", "run again")])


def measured(folder: Path, s3: SeaweedFS, what: str, size: int) -> dict[str, Any]:
    """Run the flow in a process of its own, and count what it took."""
    log = folder / "prefect-server.log"
    requests, said = s3.requests(), len(log.read_bytes())
    arguments = json.dumps([str(folder), s3.endpoint, what, size])
    command = [sys.executable, "-c", f"from {__spec__.name} import flow; flow(*{arguments})"]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    calls = re.findall(rb'"[A-Z]+ /api/\S* HTTP', log.read_bytes()[said:])
    kinds = s3.requests() - requests
    found = {"what": what, "images": size, **told, "Prefect calls": len(calls)}
    print(found := found | {f"S3 {kind}": kinds[kind] for kind in sorted(kinds)}, file=sys.stderr, flush=True)
    return found


def flow(folder: str, endpoint: str, what: str, size: int) -> None:
    """Run the flow, and print what it took as JSON."""
    from flows.config import RunConfig
    from flows.explain import explain_cohort
    from tasks.prepare import prepare

    if what == "survey made":
        prepare.survey = made_survey(size)  # type: ignore[assignment]
        prepare.read_some = lambda *_: None  # type: ignore[assignment] # there is no image to try
    output = f"{'made' if what == 'survey made' else 'files'}-{size}"
    bucket = Location(url=f"s3://{BUCKET}", endpoint_url=endpoint)
    bucket.filesystem.makedirs(BUCKET, exist_ok=True)
    config = RunConfig.model_validate(content(Path(folder), bucket / output))
    began = time.perf_counter()
    summary = explain_cohort(config)
    seconds = time.perf_counter() - began
    assert (summary.images, summary.explained) == (size, size), summary
    stages = stage_seconds()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        json.dumps(
            {
                "s": round(seconds, 1),
                "ms an image": round(1000 * seconds / size, 3),
                **{stage: round(stages[stage], 1) for stage in STAGES if stage in stages},
                "CPU s": round(used[0].ru_utime + used[0].ru_stime, 1),
                "CPU s of workers": round(used[1].ru_utime + used[1].ru_stime, 1),
                "MiB": used[0].ru_maxrss // 1024,
                "shards cut": summary.shards,
                "task runs": int(stages["task runs"]),
                "objects": summary.objects,
                "MB stored": round(summary.bytes_stored / 1e6, 1),
            }
        )
    )


def content(folder: Path, output: Location) -> dict[str, Any]:
    """The configuration of a run whose maps cost next to nothing."""
    from safetensors.torch import save_file

    from models.components import instantiate, locate
    from models.loading import NAMESPACES

    weights = folder / "weights.safetensors"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_file(instantiate(_NETWORK, locate(_NETWORK, NAMESPACES)).state_dict(), weights)
    return {
        "cohort": {"source": str(folder / "cohort"), "description": "to be counted"},
        "model": {"network": _NETWORK, "weights": str(weights), "classes": ["a", "b"], "input_shape": list(SHAPE)},
        "explainers": ["saliency"],
        "output": output.model_dump(),
        "compute": {"workers": WORKERS, "memory_per_worker": "3GiB"},
    }


def made_survey(size: int) -> Any:
    """A survey of images that are not there: what would be known of them, each one DICOM file on S3."""

    def survey(config: Any, spatial_dims: int, key: Any, *_: Any) -> Any:
        from tasks.cohort.survey import Survey

        uris = map("s3://hospital/chest/2026/{0:09d}.dcm".format, range(size))
        entries = Entries(entry_of(uri, key.pseudonym) for uri in uris)
        uris = map("s3://hospital/chest/2026/{0:09d}.dcm".format, range(size))
        places = PackedMapping((key.pseudonym(uri[14:]), Source((uri,))) for uri in uris)
        return Survey(entries, Sources(places))

    return survey


def entry_of(uri: str, pseudonym: Callable[[str], str]) -> Entry:
    """Make up an image of one DICOM file, whose size, stamp, series and patient are its own."""
    digest, stamp, series = (
        hashlib.sha256(f"{what} {uri}".encode()).hexdigest() for what in ("file", "ETag", "series")
    )
    size = 2**20 + int(stamp[:4], 16)
    fact = Fact(
        pseudonym(uri), f'{size}-"{stamp[:32]}"', digest, "dicom", series[:16], "CR", size, 2**21, series[16:32], ""
    )
    source = entry.Source("", "image", digest, (fact,))
    return Entry(pseudonym(uri[14:]), digest, "dicom", subject=fact.person, sources=(source,))


def write_files(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full(SHAPE, number, np.float32))


def stage_seconds() -> dict[str, float]:
    """Seconds from the first begin to the last end of each stage's task runs, and their number; as Prefect tells."""
    server = os.environ["PREFECT_API_URL"]
    latest = ask(server, "flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]["id"]
    chosen = {"flow_runs": {"id": {"any_": [latest]}}}
    count = ask(server, "task_runs/count", chosen)
    runs: list[dict[str, Any]] = []
    while len(runs) < count:
        page = chosen | {"limit": 200, "offset": len(runs), "sort": "ID_DESC"}
        runs += ask(server, "task_runs/filter", page)
    found: dict[str, float] = {"task runs": count}
    for stage in STAGES:
        times = [
            np.datetime64(run[end].rstrip("Z"))
            for run in runs
            if run["name"].startswith(stage) or (stage == "shards" and run["name"].startswith("shard "))
            for end in ("start_time", "end_time")
        ]
        if times:
            found[stage] = float((max(times) - min(times)) / np.timedelta64(1, "s"))
    return found


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows side by side; the last column of numbers is the exponent by which a quantity grows with the cohort."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        values = [row.get(name, 0) for row in rows]
        line = f"{name:18}" + "".join(f"{value:>14}" for value in values)
        print(line + growth(name, [row["images"] for row in rows], values), flush=True)


def growth(name: str, images: list[int], values: list[Any]) -> str:
    if name in ("what", "images") or len(set(images)) < 2 or not all(values):
        goal = ""
    else:
        steps = [
            math.log(more / few) / math.log(large / small)
            for (small, large), (few, more) in zip(pairwise(images), pairwise(values), strict=True)
        ]
        goal = "   grows by the power " + ", ".join(f"{step:.2f}" for step in steps)
    if name in GOALS:
        goal += f"   goal: under {GOALS[name]:g}"
    return goal


if __name__ == "__main__":
    main(*([tuple(map(int, sys.argv[1].split(","))), int(sys.argv[2])] if len(sys.argv) > 1 else []))
