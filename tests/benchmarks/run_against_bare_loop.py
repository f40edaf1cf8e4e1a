"""Images a second of the whole run over those of a bare torch loop that does the same passes on the same cores.

The bare loop reads nothing and stores nothing: one process a worker with a worker's environment, forward and backward
to the input at the run's batch size; as one writes it, and in the memory format that the engine uses (channels last).
The run's pace is the slope between a short and a long run, so that start-up, which is printed beside it, does not
count.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file

from flows.cluster import worker_environment
from flows.config import RunConfig
from flows.demo import demo_content
from flows.server import prefect_server
from models.components import instantiate, locate
from models.loading import NAMESPACES
from tasks.demo.cohort import write_cohort

WORKERS = 2
BATCH = 16
FILES = 96
SECONDS = 15.0
_MODULE = "tests.benchmarks.run_against_bare_loop"
CASES = {"demo network, 112 x 96": (400, 6_000), "ResNet-18, 224 x 224": (64, 900)}


def main() -> None:
    """Print one line a case."""
    with tempfile.TemporaryDirectory(dir=".") as folder, prefect_server() as server_url:
        pictures = write_cohort(Path(folder) / "cohort", images=FILES, spatial_dims=2, damaged=0)
        server_url()
        for case, sizes in CASES.items():
            print_case(case, sizes, pictures, Path(folder))


def print_case(case: str, sizes: tuple[int, int], pictures: Path, folder: Path) -> None:
    content = resnet(pictures, folder) if case.startswith("ResNet") else demo_content(str(pictures), "", spatial_dims=2)
    content["metrics"] = []  # the bare loop has none, and the manifest names no masks, which some of the demo's need
    before = [bare_pace(content, channels_last=last) for last in (False, True)]
    seconds = [run_seconds(content, pictures, folder, size) for size in sizes]
    after = [bare_pace(content, channels_last=last) for last in (False, True)]
    pace = (sizes[1] - sizes[0]) / (seconds[1] - seconds[0])
    plain, last = (median(pair) for pair in zip(before, after, strict=True))
    print(
        f"{case}: run {pace:.1f} images/s; bare loop {plain:.1f} images/s, ratio {pace / plain:.2f}; "
        f"bare loop in channels last {last:.1f} images/s, ratio {pace / last:.2f}; "
        f"start-up {seconds[0] - sizes[0] / pace:.0f} s",
        flush=True,
    )


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
    content["model"] |= {"network": network, "weights": str(weights), "input_shape": [224, 224]}
    content["cohort"]["preprocessing"].insert(0, {"_target_": "monai.transforms.Resize", "spatial_size": [224, 224]})
    content["explainers"] = ["saliency", "input_x_gradient", "gradcam"]
    return content


def run_seconds(content: dict[str, Any], pictures: Path, folder: Path, size: int) -> float:
    from flows.explain import explain_cohort

    rows = list(csv.DictReader(pictures.open()))
    manifest = pictures.with_name(f"manifest-{size}.csv")
    with manifest.open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "uri"], extrasaction="ignore")
        table.writeheader()
        table.writerows({"id": f"{number}", "uri": rows[number % len(rows)]["uri"]} for number in range(size))
    content["cohort"]["source"] = str(manifest)
    content["output"] = str(folder / f"{content['model']['input_shape'][0]}-{size}")
    content["compute"] = {"workers": WORKERS, "batch_size": BATCH}
    began = time.perf_counter()
    explain_cohort(RunConfig.model_validate(content))
    return time.perf_counter() - began


def bare_pace(content: dict[str, Any], channels_last: bool) -> float:
    """Images a second of all processes together."""
    command = [
        sys.executable,
        "-c",
        f"from {_MODULE} import bare; bare({content['model']!r}, {channels_last}, {SECONDS})",
    ]
    environment = {**os.environ, **worker_environment(threads=1)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(WORKERS)]
    return sum(float(process.communicate()[0]) for process in processes)


def bare(model: dict[str, Any], channels_last: bool, seconds: float) -> None:
    """Print images a second of one process."""
    network = instantiate(model["network"], locate(model["network"], NAMESPACES)).eval().requires_grad_(False)
    images = torch.randn(BATCH, 1, *model["input_shape"])
    if channels_last:
        network, images = (part.to(memory_format=torch.channels_last) for part in (network, images))
    done, began = -2 * BATCH, time.perf_counter()
    while done <= 0 or time.perf_counter() - began < seconds:
        if done == 0:
            began = time.perf_counter()
        images.requires_grad_()
        torch.autograd.grad(network(images)[:, 1].sum(), images)
        done += BATCH
    print(done / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
