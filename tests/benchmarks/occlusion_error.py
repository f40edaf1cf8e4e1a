"""The error of occlusion to a tolerance, against the windows that it hides, on the demo's networks.

Errors are relative L2 to the map of all windows. `python -m tests.benchmarks.occlusion_error 24` measures 24 slices,
and a quarter as many volumes.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.engine import Engine
from models.explainers.occlusion import Occlusion
from models.network import Network
from tests.benchmarks.demo_networks import network_of
from tests.benchmarks.perturb_error import TARGET, cases
from tests.benchmarks.ratios import Ratio

GRIDS = (("2-D", 16, 8), ("2-D", 16, 4), ("3-D", 16, 8))
TOLERANCES = (0.2, 0.1, 0.05)
STATED = 0.1
GOAL = 2.0


@dataclass(frozen=True)
class Measured:
    """Maps to a tolerance: the error of each image, ``(image,)``, and the share of the windows that were hidden."""

    title: str
    tolerance: float
    share: float
    errors: Tensor

    def __str__(self) -> str:
        errors = [*self.errors.quantile(torch.tensor([0.5, 0.9])).tolist(), float(self.errors.max())]
        return f"{self.title:28} {self.tolerance:4}   {self.share:.2f}   {' '.join(f'{error:.3f}' for error in errors)}"


def main() -> None:
    print("windows, tolerance; mean share that was hidden; median, 90 % and largest error")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    for measured in measure(count, (*GRIDS, ("3-D", 8, 4))):
        print(measured, flush=True)


def measure(
    images: int = 4,
    grids: tuple[tuple[str, int, int], ...] = GRIDS,
    tolerances: tuple[float, ...] = TOLERANCES,
) -> Iterator[Measured]:
    """Hide windows of some slices, and of a quarter as many volumes, but two at least."""
    for name, window, stride in grids:
        network, dims = network_of(name), int(name[0])
        batch = cases(dims, images if dims == 2 else max(2, images // 4))
        exact, every = _explained(network, Occlusion(window=window, stride=stride), batch)
        for tolerance in tolerances:
            found, asked = _explained(network, Occlusion(window=window, stride=stride, tolerance=tolerance), batch)
            errors = (found - exact).norm(dim=1) / exact.norm(dim=1)
            yield Measured(f"{name}, window {window}, stride {stride}", tolerance, asked / every, errors)


def _explained(network: Network, explainer: Occlusion, batch: Tensor) -> tuple[Tensor, int]:
    """Make the maps ``(image, place)``, and count the windows that were hidden."""
    engine = Engine(network, [explainer], TARGET)
    maps = engine.explain(batch, [str(row) for row in range(len(batch))]).maps[:, 0, 0]
    return maps.flatten(1), engine.forward_passes - len(batch)


def ratios() -> Iterator[Ratio]:
    for measured in measure(tolerances=(STATED,)):
        name = f"occlusion, {measured.title}: all windows / to a tolerance of {STATED}"
        note = f"median error to the map of all windows; largest {float(measured.errors.max()):.1e}"
        yield Ratio(name, 1 / measured.share, GOAL, float(measured.errors.median()), note=note)


if __name__ == "__main__":
    main()
