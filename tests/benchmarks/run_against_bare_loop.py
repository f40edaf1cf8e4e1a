"""A whole run, by its command, against a bare torch loop that does the same passes on the same cores.

The bare loop reads nothing and stores nothing: one process a worker with a worker's environment, forward and backward
to the input at the run's batch size, in the faster of both memory formats. The run is measured from the commits that
its workers write: its pace is that from the moment when as many are there as there are workers to the last, so that
start-up, which is told beside it, does not count.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from safetensors.torch import save_file

from flows.demo import demo_content
from flows.forked import worker_environment
from models.components import instantiate, locate
from models.loading import NAMESPACES
from tasks.demo.cohort import write_cohort
from tests.benchmarks.ratios import Ratio

WORKERS = 2
BATCH = 16
FILES = 96
SECONDS = 4.0
_MODULE = "tests.benchmarks.run_against_bare_loop"
CASES = {"demo network, 112 x 96": 3_200, "ResNet-18, 224 x 224": 384}
GOALS = dict(zip(CASES, (0.9, 0.95), strict=True))


@dataclass(frozen=True)
class Loop:
    """A bare loop: images a second of all its processes together, CPU seconds an image."""

    pace: float
    cpu: float


@dataclass(frozen=True)
class Ran:
    """A run.

    Attributes
    ----------
    first_commit
        Seconds from the command to the first commit.
    pace
        Images a second.
    cpu
        CPU seconds an image, of workers, the flow's process and Prefect's server.
    around
        CPU seconds of the flow's process and Prefect's server, as a share of the workers'.
    """

    first_commit: float
    pace: float
    cpu: float
    around: float


def main() -> None:
    """Print one line a case."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for case, size in CASES.items():
            run, bare = measure(case, size, Path(folder))
            print(
                f"{case}: first commit after {run.first_commit:.1f} s; run {run.pace:.1f} images/s, bare loop "
                f"{bare.pace:.1f} images/s: ratio {run.pace / bare.pace:.2f}, by CPU seconds {bare.cpu / run.cpu:.2f}; "
                f"flow and server {run.around:.1%} of the workers' CPU",
                flush=True,
            )


def ratios() -> Iterator[Ratio]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for case, size in CASES.items():
            run, bare = measure(case, size, Path(folder))
            note = f"{run.pace:.1f} images/s; by CPU seconds {bare.cpu / run.cpu:.2f}"
            yield Ratio(f"{case}: whole run / bare loop", run.pace / bare.pace, GOALS[case], note=note)
            yield Ratio(f"{case}: seconds to the first commit", run.first_commit, 12.0, better="lower")
            name = f"{case}: CPU of the flow's process and Prefect's server / workers"
            yield Ratio(name, run.around, 0.02, better="lower")


def measure(case: str, size: int, folder: Path) -> tuple[Ran, Loop]:
    """Measure a run over `size` images, and the bare loop before and after it."""
    pictures = folder / "cohort" / "manifest.csv"
    if not pictures.exists():
        write_cohort(pictures.parent, images=FILES, spatial_dims=2, damaged=0)
        _make_database(folder)
    content = resnet(pictures, folder) if case.startswith("ResNet") else demo_content(str(pictures), "", spatial_dims=2)
    content["metrics"] = []  # the bare loop has none, and the manifest names no masks, which some of the demo's need
    before = bare_loop(content)
    ran = run(content, pictures, folder, size)
    after = bare_loop(content)
    return ran, Loop((before.pace + after.pace) / 2, (before.cpu + after.cpu) / 2)


def resnet(pictures: Path, folder: Path) -> dict[str, Any]:
    """A ResNet-18 with random weights, which are as fast as trained ones."""
    content = demo_content(str(pictures), "", spatial_dims=2)
    network = {
        "_target_": "monai.networks.nets.resnet18",
        "spatial_dims": 2,
        "n_input_channels": 1,
        "num_classes": 2,
        "conv1_t_stride": 2,
    }
    weights = folder / "resnet18.safetensors"
    save_file(instantiate(network, locate(network, NAMESPACES)).state_dict(), weights)
    content["model"] |= {"network": network, "weights": str(weights.resolve()), "input_shape": [224, 224]}
    content["cohort"]["preprocessing"].insert(0, {"_target_": "monai.transforms.Resize", "spatial_size": [224, 224]})
    content["explainers"] = ["saliency", "input_x_gradient", "gradcam"]
    return content


def run(content: dict[str, Any], pictures: Path, folder: Path, size: int) -> Ran:
    """Run the command over `size` images, and watch its processes and commits."""
    output = folder.resolve() / f"{content['model']['input_shape'][0]}-{size}"
    content["cohort"]["source"] = str(_manifest(pictures, size))
    content["output"] = str(output)
    content |= {"compute": {"workers": WORKERS}, "batch_size": BATCH}
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    checkout = str(Path(__file__).resolve().parents[2])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    began = time.time()
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "cohortlens", "run", str(config.resolve())]
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=environment | {"PYTHONPATH": checkout}
        )
    moments: dict[int, float] = {}
    spent: dict[int, Counter[str]] = {}
    while process.poll() is None:
        written = sum(1 for _ in output.glob("commits/*.json"))
        if written and written not in spent:
            moments[written], spent[written] = time.time(), _cpu_seconds(process.pid)
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError((folder / "log").read_text())
    commits = sorted(file.stat().st_mtime for file in output.glob("commits/*.json"))
    first, last = min(count for count in spent if count >= min(WORKERS, len(commits) - 1)), max(spent)
    images = size * (last - first) / len(commits)
    took = spent[last] - spent[first]
    return Ran(
        first_commit=commits[0] - began,
        pace=images / (moments[last] - moments[first]),
        cpu=took.total() / images,
        around=(took["flow"] + took["server"]) / took["worker"],
    )


def _manifest(pictures: Path, size: int) -> Path:
    """Name the pictures again and again, until there are as many images."""
    rows = list(csv.DictReader(pictures.open()))
    manifest = pictures.with_name(f"manifest-{size}.csv")
    with manifest.open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "uri"], extrasaction="ignore")
        table.writeheader()
        table.writerows({"id": f"{number}", "uri": rows[number % len(rows)]["uri"]} for number in range(size))
    return manifest.resolve()


def _cpu_seconds(pid: int) -> Counter[str]:
    """CPU seconds by what a process does: the flow's, Prefect's server, workers and what these are forked from."""
    found: Counter[str] = Counter()
    flow = psutil.Process(pid)
    for process in (flow, *flow.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[_role(process, flow)] += times.user + times.system
    return found


def _role(process: psutil.Process, flow: psutil.Process) -> str:
    if process == flow:
        return "flow"
    if "flows.server" in process.cmdline():
        return "server"
    return "worker" if process.ppid() != flow.pid else "beside"


def _make_database(folder: Path) -> None:
    """Make Prefect's database, as all but the first run on a machine find it."""
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    home = folder.resolve() / ".cohortlens" / "prefect"
    home.mkdir(parents=True)
    subprocess.run(command, env=os.environ | {"PREFECT_HOME": str(home)}, stdout=subprocess.DEVNULL, check=True)


def bare_loop(content: dict[str, Any]) -> Loop:
    """Measure the bare loop in the faster of both memory formats."""
    command = [sys.executable, "-c", f"from {_MODULE} import bare; bare({content['model']!r}, {SECONDS})"]
    environment = {**os.environ, **worker_environment(threads=1)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(WORKERS)]
    told = torch.tensor([[float(number) for number in one.communicate()[0].split()] for one in processes])
    plain, last = ((float(one[:, 0].sum()), float(one[:, 1].mean())) for one in (told[:, :2], told[:, 2:]))
    return Loop(*max(plain, last))


def bare(model: dict[str, Any], seconds: float) -> None:
    """Print images a second and CPU seconds an image of one process, as made and in channels last."""
    network = instantiate(model["network"], locate(model["network"], NAMESPACES)).eval().requires_grad_(False)
    images = torch.randn(BATCH, 1, *model["input_shape"])
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network, images = (part.to(memory_format=memory_format) for part in (network, images.detach()))
        done, began, cpu = -2 * BATCH, time.perf_counter(), time.process_time()
        while done <= 0 or time.perf_counter() - began < seconds:
            if done == 0:
                began, cpu = time.perf_counter(), time.process_time()
            images.requires_grad_()
            torch.autograd.grad(network(images)[:, 1].sum(), images)
            done += BATCH
        print(done / (time.perf_counter() - began), (time.process_time() - cpu) / done)


if __name__ == "__main__":
    main()
