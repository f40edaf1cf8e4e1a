"""CPU time of a worker beside the passes: by stage, an image and a megapixel stored.

Shards are read, explained, encoded and written in this process as a worker does; the answers of the engine are kept
from a first round, so that what is measured holds no pass. Seconds are CPU seconds of all threads, which depend little
on what else the machine does. A megapixel stored is a million values of maps, image and mask.
"""

import csv
import math
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flows.config import RunConfig
from flows.demo import demo_content
from tasks.demo.cohort import write_cohort
from tasks.prepare.prepare import Prepared, prepare
from tasks.storage.location import Location
from tasks.store import objects
from tasks.store.record import StoredObject
from tasks.store.rows import Rows
from tasks.store.template import set_up
from tasks.store.variables import variables
from tasks.work import batches, explain, images
from tasks.work.engines import Engines
from tests.benchmarks.ratios import Ratio

FILES = 48
BATCH = 16
ROUNDS = 3
GOAL = 3.0
TOLD = "demo, 112 x 96, 6 maps", "224 x 224, 6 maps"
THREE = ["saliency", "input_x_gradient", "gradcam"]
CASES: dict[str, tuple[int, int, int, list[str] | None]] = {
    "demo, 112 x 96, 6 maps": (2, 384, 0, None),
    "demo, 36 x 44 x 36, 6 maps": (3, 48, 0, None),
    "224 x 224, 3 maps": (2, 96, 224, THREE),
    "224 x 224, 6 maps": (2, 96, 224, None),
}
"""By name: dimensions, images, side to which pictures are resized, explainers (None: the demo's)."""

STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "read": ((Location, "_try_read"),),
    "decode": ((images, "_decoded"), (images, "read_mask")),
    "prepare": ((images, "_prepare"), (images, "on_grid"), (batches, "stack")),
    "encode": ((Rows, "put"), (objects.Piece, "encode")),
    "digest": ((StoredObject, "of"),),
    "write": ((Location, "write"),),
}
"""By stage, the functions whose time it is, without that of other stages which they call."""


def measured(case: str, folder: Path) -> dict[str, float]:
    """Measure a case: ms of CPU an image by stage, their sum, and the sum by megapixel stored."""
    dims, count, side, explainers = CASES[case]
    cohort = write_cohort(folder / "cohort", images=FILES, spatial_dims=dims, damaged=0)
    content = demo_content(str(_repeated(cohort, count)), str(folder / "out"), spatial_dims=dims) | {"metrics": []}
    content["compute"] = {"batch_size": BATCH}
    if side:
        content["model"]["input_shape"] = [side, side]
        content["cohort"]["preprocessing"].insert(
            0, {"_target_": "monai.transforms.Resize", "spatial_size": [side, side]}
        )
    if explainers:
        content["explainers"] = explainers
    prepared = prepare(RunConfig.model_validate(content).recipe)
    engines, answers = Engines(), {}
    ask = explain._ask

    def remember(engine: Any, batch: Any) -> Any:
        key = tuple(batch.ids)
        if key not in answers:
            answers[key] = ask(engine, batch)
        return answers[key]

    rounds = []
    with patch.object(explain, "_ask", remember):
        _deliver(prepared, _empty(prepared, folder / "first"), engines)
        for number in range(ROUNDS):
            output = _empty(prepared, folder / f"{number}")
            with _stages() as spent:
                began = time.process_time()
                _deliver(prepared, output, engines)
                total = time.process_time() - began
            rounds.append({**spent, "rest": total - sum(spent.values()), "all": total})
    best = min(rounds, key=lambda one: one["all"])
    an_image = {stage: 1000 * seconds / count for stage, seconds in best.items()}
    return an_image | {"a megapixel": an_image["all"] / _megapixels(prepared)}


def _repeated(cohort: Path, count: int) -> Path:
    """List the images of a cohort again and again, under other names."""
    rows = list(csv.DictReader(cohort.open()))
    listed = cohort.with_name("repeated.csv")
    with listed.open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "uri", "label", "mask"])
        table.writeheader()
        table.writerows({**rows[number % len(rows)], "id": f"{number}"} for number in range(count))
    return listed


def _empty(prepared: Prepared, folder: Path) -> Location:
    """Set up an output, as a run's own process does before there are workers."""
    output = Location(url=str(folder))
    prepared.plan.write(output, prepared.entries)
    set_up(output, prepared.plan, prepared.entries)
    return output


def _deliver(prepared: Prepared, output: Location, engines: Engines) -> None:
    explain.explain_shards(output, range(len(prepared.plan.shards)), engines, prepared.sources)


def _megapixels(prepared: Prepared) -> float:
    plan = prepared.plan
    stored = [
        one for one in variables(plan, plan.outputs.values()).values() if one.output.kind in ("map", "image", "mask")
    ]
    return sum(math.prod(one.shape) for one in stored) / 1e6


@contextmanager
def _stages() -> Iterator[dict[str, float]]:
    """Count the CPU seconds of each stage, whichever thread it runs in."""
    spent: dict[str, float] = defaultdict(float)
    within, lock = threading.local(), threading.Lock()

    def counted(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            outer, within.inner = getattr(within, "inner", 0.0), 0.0
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - began
                with lock:
                    spent[stage] += took - within.inner
                within.inner = outer + took

        return call

    patches = [
        patch.object(owner, name, counted(stage, getattr(owner, name)))
        for stage, places in STAGES.items()
        for owner, name in places
    ]
    for one in patches:
        one.start()
    try:
        yield spent
    finally:
        for one in patches:
            one.stop()


def ratios() -> Iterator[Ratio]:
    for case in TOLD:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(case, Path(folder))
        stages = ", ".join(f"{stage} {found[stage]:.1f}" for stage in (*STAGES, "rest") if stage in found)
        note = f"ms an image: {stages}"
        name = f"{case}: ms of CPU a megapixel stored, beside the passes"
        yield Ratio(name, found["a megapixel"], GOAL, better="lower", note=note)


def main(cases: list[str]) -> None:
    """Print one line a case."""
    for case in cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(case, Path(folder))
        print(f"{case}: " + ", ".join(f"{stage} {ms:.2f}" for stage, ms in found.items()) + " ms", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
