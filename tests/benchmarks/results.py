"""The cost of results over a cohort, of made-up vectors; and of a pass that keeps what they are computed from.

Seconds of a core are summed over threads, and much the same whatever else the machine does; the clock's are not.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engine import Engine
from models.explainers.embedding import Embedding
from models.explainers.pooled import PooledActivations, gradient_of
from models.explainers.saliency import Saliency
from models.outputs import Frame
from models.prediction import TARGET_CLASS
from models.results import TCAV, Result, SimilarCases
from models.targets import Classes
from tests.benchmarks.explainers import images_of, network_of
from tests.benchmarks.ratios import Ratio

IMAGES = {"tcav": 20_000, "similar_cases": 10_000}
FEATURES, CONCEPTS, OF_CONCEPT, PAIRS, KEPT_OF = 512, 20, 50, 5, 32
BLOCK = 2048
FRAME = Frame(("a", "b"), ("a",), (), ("grey",), (8, 8), "softmax")


@dataclass(frozen=True)
class Drawn:
    """Vectors that are drawn, each of a subject of its own, as a result reads them; the first images show concepts."""

    images: int
    frame: Frame = FRAME
    covariates: dict[str, Sequence[str]] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return [f"{row:06}" for row in range(self.images)]

    subjects = ids

    @property
    def labels(self) -> list[str]:
        shown = [f"c{row // OF_CONCEPT}" for row in range(min(CONCEPTS * OF_CONCEPT, self.images))]
        return shown + ["ab"[row % 2] for row in range(len(shown), self.images)]

    @property
    def explained(self) -> NDArray[np.bool_]:
        return np.ones(self.images, bool)

    def blocks(self, *names: str) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
        for start in range(0, self.images, BLOCK):
            rows = slice(start, min(start + BLOCK, self.images))
            yield rows, {name: self._values(name, rows) for name in names}

    def _values(self, name: str, rows: slice) -> NDArray[Any]:
        count = rows.stop - rows.start
        if name == TARGET_CLASS:
            return np.zeros((count, 1), np.int32)
        drawn = np.random.default_rng([rows.start, len(name)]).normal(size=(count, FEATURES)).astype(np.float32)
        if name == gradient_of("pooled_activations"):
            return drawn[:, None]
        of = np.minimum(np.arange(rows.start, rows.stop) // OF_CONCEPT, CONCEPTS)
        return drawn + 2 * np.eye(CONCEPTS + 1, FEATURES, dtype=np.float32)[of]


def cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def ratios() -> Iterator[Ratio]:
    yield of_the_pass("layer3")
    yield from map(of_result, IMAGES)


def of_result(name: str) -> Ratio:
    """Measure what a result costs an image; similar cases compare each image with every other."""
    result: Result = TCAV(concepts=tuple(f"c{one}" for one in range(CONCEPTS))) if name == "tcav" else SimilarCases()
    stored = Drawn(IMAGES[name])
    cost = 1000 * cpu_seconds(lambda: result.compute(stored)) / stored.images
    note = f"of {stored.images} images of {FEATURES} features; no ratio"
    return Ratio(f"{name}, ms of a core an image", cost, None, better="lower", note=note)


def of_the_pass(layer: str) -> Ratio:
    """Compare a pass that keeps embeddings and pooled activations beside saliency with one of saliency alone."""
    network, images = network_of(2), images_of(2, KEPT_OF)
    ids = [str(number) for number in range(KEPT_OF)]
    engines = [
        Engine(network, explainers, Classes(classes=("b",)), 8)
        for explainers in ([Saliency()], [Saliency(), Embedding(), PooledActivations(layer=layer)])
    ]
    for engine in engines:
        engine.explain(images, ids)
    pairs = [[cpu_seconds(lambda one=engine: one.explain(images, ids)) for engine in engines] for _ in range(PAIRS)]
    ratio = median(kept / plain for plain, kept in pairs)
    return Ratio("a pass that keeps embeddings and activations / one that does not", ratio, 1.05, better="lower")
