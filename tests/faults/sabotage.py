"""Deaths of worker processes, at a stage of their work.

A death is an empty file in a folder, named by its stage and by how often that stage is reached before: the process that
removes the file dies by SIGKILL. Dask's workers load this module when they start (``distributed.worker.preload``), with
the folder in the environment.
"""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = "COHORTLENS_SABOTAGE"
STAGES = ("fitting", "reading", "explaining", "writing", "committing", "evaluating", "computing results")

RECORDED_AT = 3
"""How often a stage that `interrupt` watches is reached until its work is recorded."""

_reached: Counter[str] = Counter()


def plan_deaths(folder: Path, deaths: Sequence[tuple[str, int]], pace: float = 0.0) -> Path:
    """Make the folder of some deaths, each a stage and how often it is reached before.

    Parameters
    ----------
    pace
        Seconds by which each batch takes longer, so that there is a middle of the work.
    """
    folder.mkdir(parents=True)
    for number, (stage, before) in enumerate(deaths):
        (folder / f"{stage}-{before}-{number}").touch()
    (folder / "pace").write_text(str(pace))
    (folder / "explained").touch()
    return folder


def deaths_left(folder: Path) -> int:
    return sum(path.name.partition("-")[0] in STAGES for path in folder.iterdir())


def explained(folder: Path) -> int:
    """Count the images that were explained, by all processes together, whether delivered or not."""
    return sum(int(line) for line in (folder / "explained").read_text().split())


def reach(folder: Path, stage: str, last_words: Callable[[], object] = lambda: None) -> None:
    """Come to a stage; die if it is time."""
    for death in sorted(folder.glob(f"{stage}-{_reached[stage]}-*")):
        try:
            death.unlink()
        except FileNotFoundError:
            continue
        last_words()
        os.kill(os.getpid(), signal.SIGKILL)
    _reached[stage] += 1


def install(folder: Path) -> None:
    """Let this process reach the stages of its work."""
    from tasks.storage.location import PARTIAL, Location
    from tasks.store.commit import Commit
    from tasks.work import batches, evaluate, explain, fit, results

    read_images, ask = batches.read_images, explain._ask
    write_beside, write_commit = Location._write_beside, Commit.write

    def read_then_die(*arguments: Any) -> Any:
        images = read_images(*arguments)
        reach(folder, "reading")
        return images

    def explain_then_die(engine: Any, batch: Any) -> Any:
        explanation = ask(engine, batch)
        with (folder / "explained").open("a") as file:
            file.write(f"{len(batch.rows)}\n")
        time.sleep(float((folder / "pace").read_text()))
        reach(folder, "explaining")
        return explanation

    def die_in_the_middle_of_a_write(location: Location, data: bytes) -> str:
        if "/c/" in location.url:
            half = Path(f"{location.path}.killed{PARTIAL}")
            half.parent.mkdir(parents=True, exist_ok=True)
            reach(folder, "writing", lambda: half.write_bytes(data[: len(data) // 2]))
        return write_beside(location, data)

    def die_then_commit(record: Commit, output: Location) -> None:
        reach(folder, "committing")
        write_commit(record, output)

    for module, name, watched in (
        (batches, "read_images", read_then_die),
        (explain, "_ask", explain_then_die),
        (Location, "_write_beside", die_in_the_middle_of_a_write),
        (Commit, "write", die_then_commit),
    ):
        setattr(module, name, watched)
    interrupt(folder, "fitting", fit, "_store", fit.FitRecord)
    interrupt(folder, "evaluating", evaluate, "write", evaluate.Evaluation)
    interrupt(folder, "computing results", results, "write", results.ResultRecord)


def interrupt(folder: Path, stage: str, module: Any, name: str, record: Any) -> None:
    """Let a stage be reached once its arrays are computed, once these are stored, and once that is recorded."""
    write, write_record = getattr(module, name), record.write

    def die_around_a_write(*arguments: Any) -> Any:
        reach(folder, stage)
        objects = write(*arguments)
        reach(folder, stage)
        return objects

    def record_then_die(written: Any, output: Any) -> None:
        write_record(written, output)
        reach(folder, stage)

    setattr(module, name, die_around_a_write)
    record.write = record_then_die


class AfterImport(MetaPathFinder, Loader):
    """Calls `install` once the work's module is imported, which takes longer than a worker may take to start."""

    def __init__(self, install: Callable[[], None]) -> None:
        self.install = install

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if name != "tasks.run":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, import_module("tasks").__path__)
        assert spec and spec.loader
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.install()


def dask_setup(worker: Any) -> None:
    folder = Path(os.environ[FOLDER])
    if "tasks.run" in sys.modules:  # a worker that was forked has it
        install(folder)
    else:
        sys.meta_path.insert(0, AfterImport(lambda: install(folder)))
