"""Measure every ratio, print them as one table, and fail where one falls below what is recorded.

Each module measures in a process of its own, with a worker's environment, one thread and no GPU; a module a core, but
for those that need the whole machine. A line that seems to have fallen is measured a second time, since a machine that
does something else for a moment makes a ratio smaller, never larger.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from flows.forked import worker_environment
from tests.benchmarks.modules import ALONE, MODULES
from tests.benchmarks.ratios import Measured, Ratio
from tests.benchmarks.record import RECORDED, Machine, Record
from tests.benchmarks.speed_page import write_page

WIDTH = 150
MEASURED = TypeAdapter(Measured)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"what is measured; none: {', '.join(MODULES)}")
    parser.add_argument("--record", action="store_true", help="keep what is measured, and make docs/speed.md of it")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.modules) - set(MODULES):
        parser.error(f"{', '.join(sorted(unknown))}: modules are {', '.join(MODULES)}")
    began = time.monotonic()
    names = asked.modules or list(MODULES)
    modules = measure_all(names)
    recorded = Record.read(RECORDED) if RECORDED.exists() else Record(Machine.here(), {})
    falls = {} if asked.record else again(recorded, modules)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table(modules, recorded))
    failed = [name for name in names if name not in modules]
    console.print(f"{(time.monotonic() - began) / 60:.1f} minutes on {Machine.here()}; recorded on {recorded.machine}.")
    if recorded.machine != Machine.here() and not asked.record:
        console.print("The record is of another machine: ratios are compared all the same, and may differ for that.")
    for line in [*(f"{name}: ended with an error" for name in failed), *chain.from_iterable(falls.values())]:
        console.print(f"FELL  {line}", style="red", markup=False)
    if asked.record and not failed:
        keep(recorded, modules)
    return 1 if failed or falls else 0


def measure_all(names: Sequence[str]) -> dict[str, Measured]:
    """Let modules measure; those that end with an error are left out."""
    beside = [name for name in names if name not in ALONE]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = dict(zip(beside, pool.map(measure, beside), strict=True))
    found |= {name: measure(name) for name in names if name in ALONE}
    return {name: measured for name in names if (measured := found[name]) is not None}


def measure(module: str) -> Measured | None:
    """Let a module measure in a process of its own; None if it ended with an error, which it has printed."""
    print(f"measuring {module}", file=sys.stderr, flush=True)
    environment = {
        **os.environ,
        **worker_environment(threads=1),
        "CUDA_VISIBLE_DEVICES": "",
    }
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "tests.benchmarks.modules", module, str(answer)]
        began = time.monotonic()
        failed = subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode
        print(f"{module} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return None if failed else MEASURED.validate_json(answer.read_bytes())


def again(recorded: Record, modules: dict[str, Measured]) -> dict[str, list[str]]:
    """Measure modules with a fall once more; what fell both times is a fall."""
    falls = recorded.falls(modules)
    for name in falls:
        modules[name] = measure(name) or modules[name]
    return recorded.falls({name: modules[name] for name in falls})


def keep(recorded: Record, modules: dict[str, Measured]) -> None:
    """Write the record and its page; modules that were not asked for stay as they were recorded on this machine."""
    here = Machine.here()
    others = recorded.modules if recorded.machine == here else {}
    all_of_them = others | modules
    record = Record(here, {name: all_of_them[name] for name in MODULES if name in all_of_them})
    record.write(RECORDED)
    write_page(record)


def table(modules: dict[str, Measured], recorded: Record) -> Table:
    made = Table("ratio", *("is", "goal", "", "recorded", "error", "note"))
    for column in made.columns[1:3] + made.columns[4:6]:
        column.justify = "right"
    for name, measured in modules.items():
        before = {line.name: line for line in recorded.modules.get(name, Measured()).ratios}
        for line in measured.ratios:
            made.add_row(*row(line, before.get(line.name)), end_section=line is measured.ratios[-1])
    return made


def row(line: Ratio, recorded: Ratio | None) -> list[str]:
    sign = "≥" if line.better == "higher" else "≤"
    return [
        line.name,
        f"{line.ratio:.2f}",
        "" if line.goal is None else f"{sign} {line.goal:g}",
        "" if line.goal is None else "reached" if line.reaches_goal else "missed",
        f"{recorded.ratio:.2f}" if recorded else "new",
        "" if line.error is None else f"{line.error:.1e}",
        line.note,
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
