from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT
from models.draws import Draws
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.fits.background import Background
from models.questions import Answer, Batch, Needs, Questions, per_question


class ExpectedGradients(ChannelExplainer):
    """Expected gradients (Erion et al. 2021, doi:10.1038/s42256-021-00343-w, eq. 3; Captum's GradientSHAP).

    ``map = mean_s sum_c (x - b_s) * dS/dx(b_s + a_s (x - b_s))`` with ``a_s`` drawn from the s-th of `samples` equal
    parts of [0, 1], and ``b_s`` the images of the background in an order that is drawn for each image, again and again:
    each is taken as often as the others, at places all along the path. In the mean over draws the map is the integral
    over background and path, and sums to ``S(x) - mean_b S(b)``. With a background of 16 the relative error of a map is
    of the order of 0.5 with 20 samples, 0.2 with 50, 0.1 with 100 and 0.05 with 200 (the demo's network of slices).
    """

    requires = GRADIENT

    fits = (Background,)
    name: Literal["expected_gradients"] = "expected_gradients"
    samples: int = Field(50, ge=1, description="Gradients an image")

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        background = batch.fitted["background"]
        others, places = self.draw(batch.ids, len(background), background.device)
        places = places.to(background)
        total, channels = batch.zeros(), batch.zeros(batch.images.shape[1])

        def make(image: Tensor, step: Tensor) -> Tensor:
            start = background[others[image, step]]
            return start + per_question(places[image, step], start) * (batch.images[image] - start)

        def fold(answer: Answer) -> None:
            line = batch.images[answer.image] - background[others[answer.image, answer.step]]
            values = line * answer.gradient
            total[answer.target].index_add_(0, answer.image, values.sum(1))
            channels[answer.target].index_add_(0, answer.image, values)

        yield Questions(self.samples, make, fold, Needs(input_gradient=True))
        return total / self.samples, channels / self.samples

    def draw(self, ids: Sequence[str], background: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw the images of the background by their numbers, and places on the path, both ``(image, sample)``."""
        steps = torch.arange(self.samples, device=device)
        orders = Draws("expected gradients images", ids, device).order(background)
        shifts = Draws("expected gradients places", ids, device).uniform((self.samples,))
        return orders[:, steps % background], (steps + shifts) / self.samples
