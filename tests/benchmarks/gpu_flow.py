"""The real flow on one GPU by dask-cuda: images a second, and the share of the time that the GPU is busy."""

import csv
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Self

import torch

from flows.demo import demo_content
from flows.server import prefect_server
from tasks.demo.cohort import write_cohort
from tests.benchmarks.gpu_findings import Flow

FILES = 96
SIZES = (2_000, 40_000)
BATCH = 128
EXPLAINERS = ("saliency", "input_x_gradient", "gradcam", "integrated_gradients")
_EVERY = 0.1


class Utilisation:
    """Samples, while it is entered, of the percent of time in which the GPU ran a kernel, as the driver counts it."""

    def __enter__(self) -> Self:
        self.samples: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_EVERY):
            self.samples.append(torch.cuda.utilization(0))


def busy(samples: Sequence[int]) -> float:
    """Compute the share of the time that was busy, between the first sample that was and the last."""
    used = [place for place, percent in enumerate(samples) if percent]
    return mean(samples[used[0] : used[-1] + 1]) / 100 if used else 0.0


def flow(folder: Path, sizes: tuple[int, int] = SIZES, gpus: int = 1) -> Flow:
    """Run the demo's network over two cohorts, which repeat the same files; with no GPU, on one core."""
    with prefect_server() as server_url:
        files = write_cohort(folder / "cohort", images=FILES, spatial_dims=2, damaged=0)
        server_url()
        short = run_seconds(folder, files, sizes[0], gpus)
        if gpus:
            with Utilisation() as utilisation:
                long = run_seconds(folder, files, sizes[1], gpus)
            share = busy(utilisation.samples)
        else:
            long, share = run_seconds(folder, files, sizes[1], gpus), 0.0
    pace = (sizes[1] - sizes[0]) / (long - short)
    return Flow(sizes[1], EXPLAINERS, pace, short - sizes[0] / pace, share)


def run_seconds(folder: Path, files: Path, size: int, gpus: int) -> float:
    from flows.config import RunConfig
    from flows.explain import explain_cohort

    rows = list(csv.DictReader(files.open()))
    manifest = files.with_name(f"manifest-{size}.csv")
    with manifest.open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "uri"])
        table.writeheader()
        table.writerows({"id": str(number), "uri": rows[number % len(rows)]["uri"]} for number in range(size))
    content: dict[str, Any] = demo_content(str(manifest), str(folder / f"out-{size}"), spatial_dims=2)
    content |= {"explainers": list(EXPLAINERS), "metrics": [], "batch_size": BATCH}
    content["compute"] = {"gpus": gpus, "workers": 1}
    began = time.perf_counter()
    explain_cohort(RunConfig.model_validate(content))
    return time.perf_counter() - began
