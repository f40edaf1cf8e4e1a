from collections.abc import Generator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT
from models.draws import Draws
from models.explainers.base import Attribution, ChannelExplainer, ExplainingInputs
from models.explainers.rounds import Tolerance, in_rounds, relative_error
from models.fits.background import Background
from models.questions import Answer, Batch, Needs, Questions, per_question

_GOLDEN = (5**0.5 - 1) / 2


class ExpectedGradients(ChannelExplainer):
    """Expected gradients (Erion et al. 2021, doi:10.1038/s42256-021-00343-w, eq. 3; Captum's GradientSHAP).

    ``map = mean_s sum_c (x - b_s) * dS/dx(b_s + a_s (x - b_s))`` with ``a_s`` drawn from the s-th of `samples` equal
    parts of [0, 1], and ``b_s`` the images of the background in an order that is drawn for each image, again and again:
    each is taken as often as the others, at places all along the path. In the mean over draws the map is the integral
    over background and path, and sums to ``S(x) - mean_b S(b)``. With a background of 16 the relative error of a map is
    of the order of 0.5 with 20 samples, 0.2 with 50, 0.1 with 100 and 0.05 with 200 (the demo's network of slices).

    With a `tolerance`, samples go by turns to two halves, whose maps are independent, and `relative_error` of the two
    is the estimate. In a cycle a half takes each image of the background once, the `i`-th of its order at the place
    ``(v(cycle) + i g + u) mod 1``, with the radical inverse ``v`` in base 2 (van der Corput 1935), the golden ratio
    `g` and a shift `u` that is drawn: later cycles go between the places of earlier ones. A round is a cycle of both
    halves. At the same count the error is 1.4 times that of parts that know the count.
    """

    requires = GRADIENT

    fits = (Background,)
    name: Literal["expected_gradients"] = "expected_gradients"
    samples: int = Field(50, ge=1, description="Gradients an image; with a tolerance, the most")
    tolerance: Tolerance = None

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        background, images, count = batch.fitted["background"], batch.images, len(batch.images)
        draw, halves = (self.draw, 1) if self.tolerance is None else (self.draw_halves, 2)
        others, places = draw(batch.ids, len(background), background.device)
        places = places.to(background)
        sums = images.new_zeros(len(batch.answers), halves, *images.shape)
        asked = images.new_zeros(halves, count)

        def ask(among: Tensor, samples: slice) -> Generator[Questions, None, None]:
            def make(image: Tensor, step: Tensor) -> Tensor:
                at = image, samples.start + step
                start = background[others[at]]
                return start + per_question(places[at], start) * (images[image] - start)

            def fold(answer: Answer) -> None:
                sample = samples.start + answer.step
                values = (images[answer.image] - background[others[answer.image, sample]]) * answer.gradient
                sums[answer.target].flatten(0, 1).index_add_(0, sample % halves * count + answer.image, values)

            yield Questions(samples.stop - samples.start, make, fold, Needs(input_gradient=True), among=among)
            for half in range(halves):
                asked[half, among] = len(range(half, samples.stop, halves))

        def error() -> Tensor:
            means = (sums / per_question(asked.flatten(), images).unflatten(0, asked.shape)).flatten(3)
            return relative_error(means[:, 0], means[:, 1])

        cycle = halves * len(background)
        inexact = yield from in_rounds(batch, self.samples, self.tolerance, ask, error, cycle)
        channels = sums.sum(1) / per_question(asked.sum(0), images)
        return Attribution(channels.sum(2), channels, inexact=inexact)

    def draw(self, ids: Sequence[str], background: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw the images of the background by their numbers, and places on the path, both ``(image, sample)``."""
        steps = torch.arange(self.samples, device=device)
        orders = Draws("expected gradients images", ids, device).order(background)
        shifts = Draws("expected gradients places", ids, device).uniform((self.samples,))
        return orders[:, steps % background], (steps + shifts) / self.samples

    def draw_halves(self, ids: Sequence[str], background: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw the same by turns for two halves, whatever number of them is asked about."""
        steps = torch.arange(self.samples, device=device)
        half, cycle, turn = steps % 2, steps // 2 // background, steps // 2 % background
        orders, shifts = (
            Draws("expected gradients images", ids, device),
            Draws("expected gradients shifts", ids, device),
        )
        order = torch.stack([orders.order(background, sample=own) for own in (0, 1)], dim=1)
        places = _radical_inverse(cycle) + turn * _GOLDEN + shifts.uniform((2,)).double()[:, half]
        return order[:, half, turn], places % 1


def _radical_inverse(numbers: Tensor) -> Tensor:
    """Mirror the bits of whole numbers at the point: 1, 2, 3 become 1/2, 1/4, 3/4."""
    bits = torch.arange(32, device=numbers.device)
    return ((numbers[:, None] >> bits & 1) * 0.5 ** (bits + 1).double()).sum(1)
