from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.explainers.noise import generator
from models.fits.background import Background
from models.questions import Answer, Batch, Needs, Questions, per_question


class ExpectedGradients(ChannelExplainer):
    """Expected gradients (Erion et al. 2021, doi:10.1038/s42256-021-00343-w, eq. 3; Captum's GradientSHAP).

    ``map = mean_s sum_c (x - b_s) * dS/dx(b_s + a_s (x - b_s))`` with ``b_s`` an image of the background and ``a_s``
    from [0, 1], one from each of `samples` equal parts. In the mean over draws it sums to ``S(x) - mean_b S(b)``.
    """

    requires = GRADIENT

    fits = (Background,)
    name: Literal["expected_gradients"] = "expected_gradients"
    samples: int = Field(50, ge=1, description="Gradients an image")

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        background = batch.fitted["background"]
        drawn = torch.tensor(
            [[self._draw(name, len(background), s) for s in range(self.samples)] for name in batch.ids]
        )
        parts = (torch.arange(self.samples) + drawn[..., 1]) / self.samples
        others, places = drawn[..., 0].long().to(background.device), parts.to(background)
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

    def _draw(self, image_id: str, background: int, sample: int) -> tuple[float, float]:
        seeded = generator(image_id, "expected gradients", sample)
        return float(torch.randint(background, (), generator=seeded)), float(torch.rand((), generator=seeded))
