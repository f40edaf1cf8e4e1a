"""Explainers of the gradients at noisy copies of the image."""

from collections.abc import Generator, Iterator
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT, RULES
from models.draws import Draws
from models.explainers.base import Attribution, ChannelExplainer, ExplainingInputs
from models.explainers.rounds import in_rounds, relative_error
from models.network import Network
from models.questions import Answer, Batch, Needs, Questions, per_question
from models.relus import BackwardRule
from models.rules.relu import deconvolved, guided, require_relu

_ROUND = 16


def range_of(images: Tensor) -> Tensor:
    """Compute the range of values of each image, ``(image, 1, ...)``."""
    flat = images.flatten(1)
    return per_question(flat.amax(1) - flat.amin(1), images)


class NoisyGradient(ChannelExplainer):
    """An explainer of the gradients at noisy copies of the image; explainers with equal fields share the copies.

    The noise comes in antithetic pairs, ``x + n`` and ``x - n`` (Hammersley and Morton 1956,
    doi:10.1017/S0305004100031455): what is odd in the noise cancels, and the mean is as without pairs.

    With `tolerance`, copies are asked about in rounds of 16, until the estimated error of an image is no larger, or
    `samples` were asked about. Pairs go by turns to two halves, whose maps are independent, and `relative_error` of
    the two, L2 over channels and places, is the estimate. Against a reference of 960 samples, on two trained
    networks, four of five estimates were 0.55 to 1.6 times the true error, and 0.45 to 1.8 times for `vargrad`.

    Attributes
    ----------
    sums
        The type in which gradients are summed up; None: that of the images.
    """

    requires = GRADIENT
    sums: ClassVar[torch.dtype | None] = None

    samples: int = Field(25, ge=1, description="Noisy copies an image; with a tolerance, the most")
    tolerance: float | None = Field(None, gt=0, description="Relative standard error of the map that ends the sampling")
    noise_level: float = Field(0.15, gt=0, description="Standard deviation, as a share of the image's range")
    of: Literal["saliency", "input_x_gradient", "guided_backprop", "deconvolution"] = Field(
        "saliency", description="The gradient explainer that is smoothed"
    )

    def needs(self, network: Network) -> Needs:
        if self._rule is not None:
            network.require(self.title, RULES)
            require_relu(network)
        return Needs()

    @property
    def _rule(self) -> BackwardRule | None:
        rules: dict[str, BackwardRule] = {"guided_backprop": guided, "deconvolution": deconvolved}
        return rules.get(self.of)

    def statistic(self, mean: Tensor, square: Tensor) -> Tensor:
        """Make values of each channel from mean and mean square of the gradients, all of them of one shape."""
        raise NotImplementedError

    def over_channels(self, values: Tensor) -> Tensor:
        """Make maps ``(target, image, *space)`` of ``(target, image, channel, *space)``."""
        return values.amax(2)

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        moments = _Moments(batch, 1 if self.tolerance is None else 2, self.sums)

        def error() -> Tensor:
            one, other = (self.statistic(*half).flatten(2) for half in moments.of_parts())
            return relative_error(one, other)

        ask = partial(self._ask, batch, moments)
        inexact = yield from in_rounds(batch, self.samples, self.tolerance, ask, error, _ROUND)
        values = self.statistic(*moments.whole())
        return Attribution(self.over_channels(values).to(batch.images), values, inexact=inexact)

    def _ask(
        self, batch: Batch, moments: "_Moments", among: Tensor, samples: slice
    ) -> Generator[Questions, None, None]:
        """Ask about some copies of the images `among`."""
        first, count = samples.start, samples.stop - samples.start
        sigma, shape = self.noise_level * range_of(batch.images), batch.images.shape[1:]
        draws = Draws("gaussian", batch.ids, batch.images.device)

        def make(image: Tensor, step: Tensor) -> Tensor:
            sample = first + step
            pairs, row = torch.stack([image, sample // 2]).unique_consecutive(dim=1, return_inverse=True)
            noise = sigma[image] * draws.gaussian(shape, *pairs)[row]
            return batch.images[image] + per_question(1 - sample % 2 * 2, noise) * noise

        rule = self._rule

        def fold(answer: Answer) -> None:
            gradient = answer.gradient if rule is None else answer.by_rule[rule]
            gradient = gradient * answer.inputs if self.of == "input_x_gradient" else gradient
            moments.add(answer, first + answer.step, gradient)

        needs = Needs(input_gradient=True) if rule is None else Needs(rules=frozenset({rule}))
        key = ("gaussian", first, count, self.noise_level, rule, tuple(among.tolist()))
        yield Questions(count, make, fold, needs, key=key, among=among)


class _Moments:
    """Sums over the samples of gradients and of their squares, in one part or in two halves."""

    def __init__(self, batch: Batch, parts: int, dtype: torch.dtype | None) -> None:
        shape = len(batch.answers), parts, *batch.images.shape
        self._sums = batch.images.new_zeros(2, *shape, dtype=dtype)
        self._counts = self._sums.new_zeros(*shape[:3], *[1] * (len(shape) - 3))

    def add(self, answer: Answer, sample: Tensor, gradient: Tensor) -> None:
        """Add gradients ``(question, channel, *space)`` to the parts that their pairs belong to."""
        parts, images = self._counts.shape[1:3]
        place, gradient = sample // 2 % parts * images + answer.image, gradient.to(self._sums)
        for sums, values in zip(self._sums, (gradient, gradient.square()), strict=True):
            sums[answer.target].flatten(0, 1).index_add_(0, place, values)
        ones = torch.ones_like(per_question(place, gradient), dtype=gradient.dtype)
        self._counts[answer.target].flatten(0, 1).index_add_(0, place, ones)

    def of_parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield mean and mean square of each part, ``(target, image, channel, *space)``."""
        for part in range(self._counts.shape[1]):
            mean, square = self._sums[:, :, part] / self._counts[:, part]
            yield mean, square

    def whole(self) -> tuple[Tensor, Tensor]:
        """Compute mean and mean square of all samples, ``(target, image, channel, *space)``."""
        mean, square = self._sums.sum(2) / self._counts.sum(1)
        return mean, square
