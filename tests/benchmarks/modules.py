"""The modules that `make bench` measures. Each one offers ``ratios()``, and may offer ``curves()``.

def ratios() -> Iterator[Ratio]: ...
def curves() -> Iterator[Curve]: ...
"""

import sys
from importlib import import_module
from pathlib import Path

from pydantic import TypeAdapter

from tests.benchmarks.ratios import Measured

MODULES = {
    "explainers": "Explainers",
    "equal_error": "Explainers at equal error",
    "paths_error": "Integrated gradients at a stated error",
    "noise_error": "Noise",
    "perturb_error": "Perturbation",
    "occlusion_error": "Occlusion at a stated error",
    "metrics": "Metrics",
    "windows": "Volumes larger than the network",
    "results": "Results over a cohort",
    "worker_cost": "A worker beside the passes",
    "run_against_bare_loop": "A whole run",
}
"""By name of a module, the title of its lines on the page."""

ALONE = {"run_against_bare_loop"}
"""Modules that need all cores for themselves."""


def measure(module: str) -> Measured:
    """Let a module of this folder measure, in this process."""
    measuring = import_module(f"tests.benchmarks.{module}")
    curves = getattr(measuring, "curves", tuple)
    return Measured(tuple(measuring.ratios()), tuple(curves()))


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(TypeAdapter(Measured).dump_json(measure(sys.argv[1])))
