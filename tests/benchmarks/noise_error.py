"""SmoothGrad's error against the questions that it asks, the error that it estimates, and the price of its draws."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from models.draws import Draws
from models.engine import Engine
from models.explainers.rounds import relative_error
from models.explainers.smoothgrad import SmoothGrad
from models.explainers.smoothgrad_squared import SmoothGradSquared
from models.network import Network
from models.targets import Predicted
from tasks.demo.training import draw
from tests.benchmarks.demo_networks import network_of
from tests.benchmarks.ratios import Curve, Ratio

REFERENCE = 500
LEVELS = 0.15, 0.02
GOAL = 25 / 12
SEED = 777


@dataclass(frozen=True)
class Errors:
    """Relative L2 errors to a reference of many samples, ``(count, image)``.

    Attributes
    ----------
    counts
        The numbers of questions.
    independent, paired
        Errors of as many independent samples, and of the explainer's pairs.
    estimated
        The explainer's estimate of the error of its pairs.
    """

    counts: tuple[int, ...]
    independent: Tensor
    paired: Tensor
    estimated: Tensor


def errors(
    spatial_dims: int = 2,
    noise_level: float = 0.05,
    images: int = 8,
    counts: Sequence[int] = (12, 24, 48),
    kind: type[SmoothGrad | SmoothGradSquared] = SmoothGrad,
    network: Network | None = None,
) -> Errors:
    """Measure the errors on a trained network, the demo's unless another is given, and on the demo's images.

    Counts are multiples of 4.
    """
    network = network_of(f"{spatial_dims}-D") if network is None else network
    batch, _ = draw(images, spatial_dims, SEED)

    def maps(samples: int, names: Sequence[str]) -> Tensor:
        engine = Engine(network, [kind(samples=samples, noise_level=noise_level)], Predicted())
        repeated = batch.repeat(len(names) // images, *[1] * (batch.ndim - 1))
        return engine.explain(repeated, names).maps.flatten(1).unflatten(0, (-1, images)).double()

    def named(purpose: str, times: int = 1) -> list[str]:
        return [f"{purpose} {number} {image}" for number in range(times) for image in range(images)]

    (reference,) = maps(REFERENCE, named("reference"))
    found = []
    for count in counts:
        halves = maps(count // 2, named(f"half of {count}", 2))
        # The first sample of an image by another name is independent of all others.
        alone = maps(1, named(f"one of {count}", count))
        parts = [(part.mean(0) - reference).norm(dim=1) / reference.norm(dim=1) for part in (alone, halves)]
        found.append(torch.stack([*parts, relative_error(*halves)]))
    return Errors(tuple(counts), *torch.stack(found).unbind(1))


@cache
def measured(level: float) -> Errors:
    return errors(noise_level=level)


def curves() -> Iterator[Curve]:
    """Take the medians of the errors over images."""
    for level in LEVELS:
        found = measured(level)
        for method, part in (("independent", found.independent), ("in pairs", found.paired)):
            error = tuple(part.median(1).values.tolist())
            yield Curve(f"SmoothGrad, noise level {level:g}", method, found.counts, error)


def ratios() -> Iterator[Ratio]:
    for level in LEVELS:
        found = measured(level)
        gain = (found.independent / found.paired).square().median()
        error = found.paired.median(1).values[found.counts.index(24)]
        note = "median over images and counts; error of 24 samples in pairs"
        name = f"SmoothGrad, noise level {level:g}: independent samples / pairs"
        yield Ratio(name, float(gain), GOAL, float(error), note=note)
    price = draws_a_megapixel()
    yield Ratio(
        "draws of noise: by generator / by counter, in pairs", price["generator"] / price["counter, in pairs"], 1.0
    )


def draws_a_megapixel(side: int = 224, questions: int = 16) -> dict[str, float]:
    """Measure CPU seconds to draw a million normal numbers, for some questions of one picture each."""
    image = torch.zeros(questions, dtype=torch.int64)
    sample = torch.arange(questions)
    draws = Draws("gaussian", ["image"])

    def by_generator() -> Tensor:
        seeded = [torch.Generator().manual_seed(number) for number in range(questions)]
        return torch.stack([torch.randn(side, side, generator=one) for one in seeded])

    ways: dict[str, Callable[[], Tensor]] = {
        "generator": by_generator,
        "counter": lambda: draws.gaussian((side, side), image, sample),
        "counter, in pairs": lambda: draws.gaussian((side, side), image[::2], sample[::2]),
    }
    return {name: _seconds(way) * 1e6 / (questions * side**2) for name, way in ways.items()}


def _seconds(call: Callable[[], Tensor], times: int = 10) -> float:
    call()
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times


if __name__ == "__main__":
    torch.set_num_threads(1)
    for way, seconds in draws_a_megapixel().items():
        print(f"{way}: {1000 * seconds:.1f} ms a megapixel")
    found = errors()
    for row, count in enumerate(found.counts):
        parts = (found.independent, found.paired, found.estimated)
        print(count, *(f"{part[row].square().mean().sqrt():.3f}" for part in parts))
