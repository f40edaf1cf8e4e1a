"""Planning alone, at 1,000,000 and 10,000,000 images: seconds of CPU and memory by phase, and bytes an image.

The survey is made up, as in `tests.benchmarks.scale`, and is no part of planning; the output is a folder of this
machine. Each size has a process of its own. Memory is the peak of a phase beyond what the process held before it had
seen an image.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tests.benchmarks import scale

SIZES = (1_000_000, 10_000_000)
PLANNING = ("plan", "manifest", "set up")
GOAL = 30e-6
"""Seconds of CPU an image, for the phases of planning together."""


def main(sizes: tuple[int, ...] = SIZES) -> None:
    """Print a table of the phases of each size."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for size in sizes:
            arguments = json.dumps([str(Path(folder, str(size)).resolve()), size])
            command = [sys.executable, "-c", f"from {__spec__.name} import planned; planned(*{arguments})"]
            environment = os.environ | {"COHORTLENS_PSEUDONYM_KEY": "not-a-secret-either-0815"}
            subprocess.run(command, check=True, env=environment)


def planned(folder: str, size: int) -> None:
    """Plan a cohort and set its store up, and print what each phase took."""
    from flows.config import RunConfig
    from tasks import run
    from tasks.cohort.pseudonyms import Key
    from tasks.plan import manifest
    from tasks.plan.shards import groups
    from tasks.prepare import prepare
    from tasks.storage.location import Location

    output, found = Location(url=f"{folder}/out"), {}
    recipe = RunConfig.model_validate(scale.content(Path(folder), output)).recipe
    prepare.read_some = lambda *_: None  # type: ignore[assignment] # there is no image to try
    prepare.survey = scale.made_survey(100)  # type: ignore[assignment]
    run.write_plan(Location(url=f"{folder}/warm"), prepare.prepare(recipe))  # imports are no part of it
    begin = _peak()

    def took(phase: str, call: Callable[..., Any], *arguments: Any) -> Any:
        _forget_peak()
        before = time.process_time()
        made = call(*arguments)
        found[phase] = time.process_time() - before, _peak() - begin
        return made

    surveyed = [took("survey, made", scale.made_survey(size), recipe.cohort, 2, Key.make())]
    prepare.survey = lambda *_: surveyed.pop()  # type: ignore[assignment]
    ready = took("plan", prepare.prepare, recipe)
    plan, sources = took("manifest", run.write_plan, output, ready), ready.sources
    del ready
    shards = took("set up", run.begin, output, plan).shards

    def send() -> None:
        ids = manifest.read_ids(output, shards)
        for group in groups(shards, scale.WORKERS):
            sources.of(chain.from_iterable(islice(ids, len(group))))

    took("places of images", send)
    print(f"{size:,} images, {len(plan.shards):,} shards; {begin / 2**20:.0f} MiB before; manifest of", end=" ")
    print(
        f"{(output / manifest.NAME).size() / size:.0f} bytes an image, plan of {(output / 'plan.json').size():,} bytes"
    )
    parts = [found[phase] for phase in PLANNING]
    found["planning"] = sum(seconds for seconds, _ in parts), max(held for _, held in parts)
    for phase, (seconds, held) in found.items():
        line = f"{phase:18}{seconds:8.1f} s of CPU {held / 2**20:8.0f} MiB at most, {held / size:6.0f} bytes an image"
        print(line + f"; goal: under {GOAL * size:.0f} s" * (phase == "planning"), flush=True)


def _peak() -> int:
    """Read the most memory in bytes that this process has had since its peak was forgotten."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    """Let Linux begin its peak anew; elsewhere each phase has the peak of those before as well."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main(*([tuple(map(int, sys.argv[1].split(",")))] if len(sys.argv) > 1 else []))
