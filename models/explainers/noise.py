"""Noise that depends on the image's name and the sample's number, and on nothing else."""

from collections.abc import Callable, Generator
from hashlib import blake2b
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT, RULES
from models.explainers.base import ChannelExplainer, strongest_channel
from models.network import Network
from models.questions import Answer, Ask, Batch, Needs, Questions, per_question, plainly
from models.rules.relu import deconvolved, guided, require_relu


def generator(image_id: str, purpose: str, sample: int) -> torch.Generator:
    """Seed a generator on the CPU, so that every device gets the same numbers."""
    digest = blake2b(f"{purpose}\0{sample}\0{image_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def draw(batch: Batch, image: Tensor, step: Tensor, one: Callable[[torch.Generator], Tensor], purpose: str) -> Tensor:
    """Stack one draw for each question."""
    pairs = zip(image.tolist(), step.tolist(), strict=True)
    drawn = [one(generator(batch.ids[index], purpose, sample)) for index, sample in pairs]
    return torch.stack(drawn).to(batch.images)


def range_of(images: Tensor) -> Tensor:
    """Compute the range of values of each image, ``(image, 1, ...)``."""
    flat = images.flatten(1)
    return per_question(flat.amax(1) - flat.amin(1), images)


class NoisyGradient(ChannelExplainer):
    """An explainer of the gradients at noisy copies of the image; explainers with equal fields share the copies."""

    requires = GRADIENT

    samples: int = Field(25, ge=1, description="Noisy copies an image")
    noise_level: float = Field(0.15, gt=0, description="Standard deviation, as a share of the image's range")
    of: Literal["saliency", "input_x_gradient", "guided_backprop", "deconvolution"] = Field(
        "saliency", description="The gradient explainer that is smoothed"
    )

    def needs(self, network: Network) -> Needs:
        if self._ask is not plainly:
            network.require(self.title, RULES)
            require_relu(network)
        return Needs()

    @property
    def _ask(self) -> Ask:
        return {"guided_backprop": guided, "deconvolution": deconvolved}.get(self.of, plainly)

    def moments(self, batch: Batch) -> Generator[Questions, None, tuple[Tensor, Tensor]]:
        """Return mean and mean square of the gradients, each ``(target, image, channel, *space)`` in float64."""
        sigma = self.noise_level * range_of(batch.images)
        shape = batch.images.shape[1:]
        first, second = (batch.zeros(shape[0]).double() for _ in range(2))

        def make(image: Tensor, step: Tensor) -> Tensor:
            noise = draw(
                batch, image, step, lambda seeded: torch.randn(shape, generator=seeded, dtype=torch.float32), "gaussian"
            )
            return batch.images[image] + sigma[image] * noise

        def fold(answer: Answer) -> None:
            gradient = answer.gradient.double()
            if self.of == "input_x_gradient":
                gradient = gradient * answer.inputs
            first[answer.target].index_add_(0, answer.image, gradient)
            second[answer.target].index_add_(0, answer.image, gradient**2)

        key = ("gaussian", self.samples, self.noise_level, self._ask)
        yield Questions(self.samples, make, fold, Needs(input_gradient=True), self._ask, key)
        return first / self.samples, second / self.samples

    def over_channels(self, values: Tensor) -> Tensor:
        """Make maps of ``(target, image, channel, *space)`` as the smoothed explainer does."""
        return values.sum(2) if self.of == "input_x_gradient" else strongest_channel(values, channel=2)
