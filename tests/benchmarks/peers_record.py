"""The findings of `make bench-peers`, in `peers.json`."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from tests.benchmarks.record import Machine

RECORDED = Path(__file__).with_name("peers.json")


@dataclass(frozen=True)
class Line:
    """One method of a package, beside ours.

    Attributes
    ----------
    theirs_ms, ours_ms
        CPU milliseconds an image, the median over rounds.
    ratio
        The median over rounds of their seconds over ours.
    relative_l2, correlation
        Medians over images, of their map and ours; the correlation is Pearson's.
    note
        Why maps differ, where they do.
    """

    package: str
    method: str
    theirs_ms: float
    ours_ms: float
    ratio: float
    relative_l2: float
    correlation: float
    their_setting: str
    our_setting: str
    note: str = ""

    @property
    def title(self) -> str:
        return f"{self.package}: {self.method}"


@dataclass(frozen=True)
class Peers:
    """Lines of all packages that could be installed, and why others could not."""

    machine: Machine
    images: int
    shape: tuple[int, ...]
    lines: tuple[Line, ...]
    missing: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Peers | None":
        return _ADAPTER.validate_json(path.read_bytes()) if path.exists() else None

    def write(self, path: Path) -> None:
        path.write_bytes(_ADAPTER.dump_json(self, indent=1) + b"\n")


_ADAPTER = TypeAdapter(Peers)
