"""The error of integrated and expected gradients against the questions asked, on trained networks, the demo's images.

A question is a pass forward and back; a pass forward alone counts a third. The error is that of a map to the limit, as
a relative Euclidean norm: integrated gradients of many steps, or the whole background at many places of the path. The
networks are those of the demo in 2-D and 3-D, and that of slices with GELU in place of ReLU, trained on for an epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, groupby

import torch
from captum import attr
from torch import Tensor

from models.engine import Engine
from models.explainers.base import Explainer
from models.explainers.expected_gradients import ExpectedGradients
from models.explainers.integrated_gradients import IntegratedGradients
from models.flags import MapFlag
from models.network import Network
from models.targets import Classes
from tests.benchmarks.demo_networks import images_of, network_of
from tests.benchmarks.ratios import Curve, Ratio

BACKGROUND = 16
BATCH = 16
STEPS = 10, 20, 50, 100
TOLERANCES = 0.1, 0.05, 0.03, 0.02
SAMPLES = 10, 20, 50, 100
TARGET = 1
GOAL = 2.5


@dataclass(frozen=True)
class Measured:
    """The errors of one rule on one network.

    Attributes
    ----------
    setting
        Steps, samples, or the tolerance.
    questions
        Asked about an image, in the mean over images.
    rms, median, ninety, largest
        Of the relative errors of the images' maps: root mean square, quantiles of 50 % and 90 %, maximum.
    flagged
        The share of maps that are flagged as inexact.
    """

    network: str
    rule: str
    setting: float
    questions: float
    rms: float
    median: float
    ninety: float
    largest: float
    flagged: float = 0.0


Explained = tuple[Tensor, float, float]
"""Maps ``(image, *space)``, questions asked about an image, and the share of maps that are flagged."""


def integrated_gradients(
    images: int = 4, reference: int = 400, among: Sequence[str] = ("2-D", "3-D", "2-D, GELU")
) -> Iterator[Measured]:
    """Measure Gauss-Legendre quadrature, bisection to a tolerance, and Captum, on some of the networks."""
    for name in among:
        network = network_of(name)
        inputs = images_of(network, images)
        limit = midpoints(network, inputs, torch.zeros_like(inputs[0]), reference)
        for steps in STEPS:
            found = explained(network, IntegratedGradients(steps=steps), inputs)
            yield measured(name, "Gauss-Legendre", steps, found, limit)
        for tolerance in TOLERANCES:
            found = explained(network, IntegratedGradients(steps=100, tolerance=tolerance), inputs)
            yield measured(name, "to a tolerance", tolerance, found, limit)
        captum = attr.IntegratedGradients(network.module)
        yield measured(name, "Captum", 50, counted(network, inputs, partial(captum.attribute, target=TARGET)), limit)


def expected_gradients(images: int = 4, places: int = 20) -> Iterator[Measured]:
    """Measure our draws and Captum's on the network of slices; the limit takes so many places of each path."""
    name, network = "2-D", network_of("2-D")
    inputs, background = images_of(network, images + BACKGROUND).split([images, BACKGROUND])
    limit = torch.stack([midpoints(network, inputs, start, places) for start in background]).mean(0)
    for samples in SAMPLES:
        found = explained(network, ExpectedGradients(samples=samples), inputs, background)
        yield measured(name, "expected gradients", samples, found, limit)
        torch.manual_seed(0)
        captum = partial(attr.GradientShap(network.module).attribute, baselines=background, stdevs=0.0, target=TARGET)
        found = counted(network, inputs, partial(captum, n_samples=samples))
        yield measured(name, "Captum's GradientShap", samples, found, limit)


@cache
def curves() -> tuple[Curve, ...]:
    """Take the root mean square of the errors over images: tails count, where a few images are worse than the rest."""
    found = []
    for (network, rule), rows in groupby(integrated_gradients(8), lambda row: (row.network, row.rule)):
        own = [*rows]
        questions, errors = (tuple(getattr(row, name) for row in own) for name in ("questions", "rms"))
        found.append(Curve(f"integrated gradients, {network}", rule, questions, errors))
    return tuple(found)


def ratios() -> Iterator[Ratio]:
    for network, own in groupby(curves(), lambda curve: curve.network):
        by_rule = {curve.method: curve for curve in own}
        error = by_rule["Captum"].error[0]
        questions = by_rule["to a tolerance"].questions_at(error)
        note = f"at the error of 50 steps, rms: {questions:.0f} questions"
        yield Ratio(f"{network}: questions of 50 steps / to a tolerance", 50 / questions, GOAL, error, note=note)


def midpoints(network: Network, images: Tensor, start: Tensor, steps: int) -> Tensor:
    """Integrate the gradient over the path from `start` to each image, by torch alone: ``(image, *space)``."""
    maps = []
    for image in images:
        total = torch.zeros_like(image)
        for places in ((torch.arange(steps) + 0.5) / steps).split(BATCH):
            points = network.prepare(start + places.view(-1, *[1] * image.ndim) * (image - start)).requires_grad_()
            (gradient,) = torch.autograd.grad(network.module(points)[:, TARGET].sum(), points)
            total += gradient.sum(0) / steps
        maps.append(((image - start) * total)[0])
    return torch.stack(maps)


def explained(network: Network, explainer: Explainer, images: Tensor, background: Tensor | None = None) -> Explained:
    fitted = {} if background is None else {"background": background}
    engine = Engine(network, [explainer], Classes(classes=("lesion",)), BATCH, fitted)
    maps, flags = [], []
    for part in images.split(BATCH):
        found = engine.explain(part, [str(number) for number in range(len(part))])
        maps.append(found.maps[:, 0, 0])
        flags.append(found.map_flags[:, 0, 0] & MapFlag.INEXACT.value)
    questions = engine.backward_passes + (engine.forward_passes - engine.backward_passes) / 3
    return torch.cat(maps), questions / len(images), float((torch.cat(flags) != 0).float().mean())


def counted(network: Network, images: Tensor, attribute: Callable[[Tensor], Tensor]) -> Explained:
    """Let another library explain one image at a time, every input of which is passed forward and back."""
    passes = []
    handle = network.module.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    maps = torch.cat([attribute(image)[:, 0] for image in images.split(1)])
    handle.remove()
    return maps, sum(passes) / len(images), 0.0


def measured(network: str, rule: str, setting: float, found: Explained, limit: Tensor) -> Measured:
    maps, questions, flagged = found
    errors = (maps - limit).flatten(1).norm(dim=1) / limit.flatten(1).norm(dim=1)
    median, ninety, largest = errors.quantile(torch.tensor([0.5, 0.9, 1.0])).tolist()
    rms = float(errors.square().mean().sqrt())
    return Measured(network, rule, setting, questions, rms, median, ninety, largest, flagged)


def main() -> None:
    """Print the figures of `docs/speed.md`, of more images and nearer to the limit than what takes a minute."""
    print("relative error of a map: rms, median, 90 %, largest; questions an image; share of maps that are flagged")
    for row in chain(integrated_gradients(24, 1000), expected_gradients(24, 40)):
        errors = f"{row.rms:7.4f} {row.median:7.4f} {row.ninety:7.4f} {row.largest:7.4f}"
        print(
            f"{row.network:10} {row.rule:22} {row.setting:6g} {errors} {row.questions:6.1f} {row.flagged:5.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
