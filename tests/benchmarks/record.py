"""The record that benchmarks are held against: `recorded.json`, of one machine."""

import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from tests.benchmarks.ratios import Measured

RECORDED = Path(__file__).with_name("recorded.json")


@dataclass(frozen=True)
class Machine:
    """The machine of a record: ratios are much the same on others of its kind, and may differ elsewhere."""

    cpu: str
    cores: int
    torch: str

    @classmethod
    def here(cls) -> "Machine":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
        return cls(cpu, len(os.sched_getaffinity(0)), version("torch"))

    def __str__(self) -> str:
        return f"{self.cores} cores of {self.cpu}, torch {self.torch}"


@dataclass(frozen=True)
class Record:
    """Lines and curves that were measured on a day, by module."""

    machine: Machine
    modules: dict[str, Measured]

    @classmethod
    def read(cls, path: Path) -> "Record":
        return _ADAPTER.validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        path.write_bytes(_ADAPTER.dump_json(self, indent=1) + b"\n")

    def falls(self, modules: dict[str, Measured]) -> dict[str, list[str]]:
        """Say by module what falls below this record; lines that are new in `modules` do not."""
        found = {}
        for module, measured in modules.items():
            lines = {line.name: line for line in measured.ratios}
            recorded = self.modules.get(module, Measured()).ratios
            lost = [f"{line.name}: recorded, and not measured any more" for line in recorded if line.name not in lines]
            short = [lines[line.name].fall(line) for line in recorded if line.name in lines]
            if told := [*filter(None, short), *lost]:
                found[module] = told
        return found


_ADAPTER = TypeAdapter(Record)
