"""The cost of each metric: as a multiple of a bare forward pass of each map's image, and of the passes it is made of.

Both sides run in turn in one process with a worker's environment, on a GPU if there is one; the ratio is the median of
the pairs' ratios. The passes are those that the definition needs for these maps, the plain one included, run bare in
the memory format and at the batch size that are best for them. A metric that asks nothing has none, and its cost is
compared with a forward pass that it does not make.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import get_args

import torch
from torch import Tensor

from flows.forked import worker_environment
from models.engine import Engine
from models.explainers.base import Explainer
from models.explainers.control_centre import ControlCentre
from models.explainers.control_random import ControlRandom
from models.explainers.saliency import Saliency
from models.metrics import METRICS, Metric, Values, evaluate
from models.network import Network
from models.targets import Classes
from tests.benchmarks.explainers import DEVICE, best_batch, images_of, network_of, rows, seconds
from tests.benchmarks.ratios import Ratio

PAIRS = 3
IMAGES = 4
GOAL = 1.15
SMALL = 0.1
NAMES = [name for kind in METRICS.kinds.values() for name in get_args(kind.model_fields["name"].annotation)]
FEW = {"layers": ["fc", "layer4"]}  # each layer costs the same
PARAMETERS = {"cascading_randomisation": FEW, "independent_randomisation": FEW, "smooth_mprt": {**FEW, "samples": 4}}
EXPLAINS_ANEW = {
    *("max_sensitivity", "relative_input_stability", "relative_output_stability", "relative_representation_stability"),
    *("cascading_randomisation", "independent_randomisation", "smooth_mprt", "efficient_mprt", "random_logit"),
}


@dataclass(frozen=True)
class Setting:
    """Images, and maps of noise and of a smooth blob, whose order differs as much as it can."""

    network: Network
    images: Tensor
    batch: int

    def engine(self, metric: Metric) -> Engine:
        explainers: list[Explainer] = (
            [Saliency()] if metric.name in EXPLAINS_ANEW else [ControlRandom(), ControlCentre()]
        )
        return Engine(self.network, explainers, Classes(classes=("b",)), self.batch)

    def evaluate(self, engine: Engine, metric: Metric, maps: Tensor) -> list[Values]:
        masks = torch.zeros(len(self.images), *self.images.shape[2:], dtype=torch.bool)
        masks[..., 50:90, 30:80] = True
        spacing = torch.ones(len(self.images), self.images.ndim - 2)
        ids = [str(number) for number in range(len(self.images))]
        return evaluate(engine, [metric], self.images, ids, maps, masks, spacing, maps[None].roll(1, 1))


def main() -> None:
    if "MALLOC_TOP_PAD_" not in os.environ:
        threads = len(os.sched_getaffinity(0))
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]],
                  {**os.environ, **worker_environment(threads)})  # fmt: skip
    setting = Setting(network_of(2), images_of(2, IMAGES), best_batch(2, False))
    print(f"{DEVICE}, {torch.get_num_threads()} threads, batches of {setting.batch}")
    print("metric: passes and seconds a map; times one forward pass; times its passes run bare")
    for name in sys.argv[1:] or NAMES:
        print(line(setting, name), flush=True)


def ratios() -> Iterator[Ratio]:
    """Measure what `make bench` holds: one of each kind."""
    setting = Setting(network_of(2), images_of(2, IMAGES), best_batch(2, False))
    for name in ("deletion", "road_morf", "max_sensitivity", "cascading_randomisation"):
        cost = measured(setting, name)
        yield Ratio(f"{name} / its passes", cost.ratio, GOAL, better="lower", note=f"{cost.passes:.0f} passes a map")
    cost = measured(setting, "gini")
    of_map, share = cost.ours / cost.maps, cost.times_forward * IMAGES / cost.maps
    note = f"asks nothing: {1000 * of_map:.2f} ms a map"
    yield Ratio("gini of a map / forward", share, SMALL, better="lower", note=note)


@dataclass(frozen=True)
class Cost:
    """The cost of a metric.

    Attributes
    ----------
    maps
        The number of maps.
    passes
        Passes a map.
    ours
        Seconds.
    ratio, times_forward
        The cost as a multiple of its passes, infinite where there are none, and of one forward pass of each image.
    """

    maps: int
    passes: float
    ours: float
    ratio: float
    times_forward: float


def line(setting: Setting, name: str) -> str:
    cost = measured(setting, name)
    of_passes = f"{cost.ratio:5.2f} (goal {GOAL})" if cost.passes else ""
    of_map, of_image = cost.ours / cost.maps, cost.times_forward * IMAGES / cost.maps
    return f"{name:26} {cost.passes:7.1f} {of_map:8.4f}   {of_image:7.3f}   {of_passes}"


def metric_of(name: str) -> Metric:
    metric: Metric = METRICS.adapter.validate_python({"name": name, **PARAMETERS.get(name, {})})
    return metric


def measured(setting: Setting, name: str) -> Cost:
    metric = metric_of(name)
    engine = setting.engine(metric)
    maps = engine.explain(setting.images, [str(number) for number in range(IMAGES)]).maps
    forward, backward = engine.forward_passes, engine.backward_passes
    setting.evaluate(engine, metric, maps)  # which also warms up
    passes, back = engine.forward_passes - forward, engine.backward_passes - backward
    with_back, without = (
        rows(setting.network, count, setting.batch, way) for count, way in ((back, True), (passes - back, False))
    )

    def bare() -> None:
        for count, run in ((back, with_back), (passes - back, without)):
            if count:
                run()

    one = rows(setting.network, IMAGES, setting.batch, False)
    timed = [
        (seconds(lambda: setting.evaluate(engine, metric, maps)), seconds(bare), seconds(one)) for _ in range(PAIRS)
    ]
    return Cost(
        maps=IMAGES * maps.shape[2],
        passes=passes / (IMAGES * maps.shape[2]),
        ours=median(ours for ours, _, _ in timed),
        ratio=median(ours / theirs if passes else inf for ours, theirs, _ in timed),
        times_forward=median(ours / plain for ours, _, plain in timed),
    )


if __name__ == "__main__":
    main()
