from collections.abc import Callable, Generator
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from models.autoencoders import Autoencoder, AutoencoderConfig
from models.capability import GRADIENT
from models.errors import ConfigurationError
from models.explainers.base import Attribution, ChannelExplainer, ExplainingInputs
from models.network import Network
from models.outputs import IMAGE_ID, Axis, Frame, Output
from models.questions import Answer, Batch, Needs, Questions
from models.targets import NO_CLASS

KIND = "counterfactual"
"""The kind of what is stored of changed images."""

MEASURES = ("latent", "L1", "L2")

_BEYOND = 0.05
"""The aim of the search beyond the boundary, as a part of the margin of the image as it is."""

_SETTLED = 0.01
"""The search ends where the next step is this part of the change, and the prediction has turned."""

_HALVINGS = 10


class Counterfactual(ChannelExplainer):
    """Counterfactual: the smallest change in the latent space of an autoencoder that turns the prediction.

    ``x' = x + D(z') - D(z)`` with ``z = E(x)``: what the autoencoder cannot draw stays as it is in the image. Where the
    network decides for the target (see `Chosen.decided`), ``z'`` is the nearest point at which it does not; elsewhere,
    the nearest at which it does (Joshi et al. 2019, arXiv:1907.09615). The search steps to the linearised boundary
    until the prediction turns, then along the boundary to where it is nearest (Rackwitz and Fiessler 1978,
    doi:10.1016/0045-7949(78)90046-9), and ends by bisection on the way back to the image; where the network is not
    linear, a nearer one may exist. ``map = max_c |x' - x|``: all of the
    change speaks for the turn, whether it brightens or darkens. NaN where none is found. A record stays as it is.
    """

    requires = GRADIENT

    name: Literal["counterfactual"] = "counterfactual"
    autoencoder: AutoencoderConfig = Field(description="The autoencoder in whose latent space is searched")
    steps: int = Field(30, ge=1, description="Gradients an image and target, at most")
    longest: float = Field(1.0, gt=0, description="Longest step in the latent space, whose prior has a deviation of 1")

    def load(self, network: Network) -> Autoencoder:
        """Read the autoencoder; raise ConfigurationError if it does not fit the images of `network`."""
        raise NotImplementedError

    def needs(self, network: Network) -> Needs:
        if network.config.activation == "identity":
            raise ConfigurationError("a regression decides for no class, so that nothing turns: leave it out")
        if network.segments:
            raise ConfigurationError("the network decides at each place, and not about the image: leave it out")
        if not network.tiles.is_whole:
            raise ConfigurationError(
                "the autoencoder takes an image whole, and model.windows takes parts: leave it out"
            )
        self.load(network)  # complains of one that does not fit
        return Needs()

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        of, measure = (IMAGE_ID, "target"), f"{self.title}_measure"
        axes = (Axis(name=measure, labels=MEASURES, long_name="norm of the change"),)

        def output(name: str, about: str, dims: tuple[str, ...] = (), axes: tuple[Axis, ...] = ()) -> Output:
            return Output(name=name, dims=(*of, *dims), kind=KIND, long_name=about, axes=axes)

        return (
            *super().declare(frame, network),
            output(self.title, "the image, as the network takes it, with the smallest change that turns the prediction",
                   ("channel", *frame.space)),
            output(f"{self.title}_valid", "whether the prediction turned: 1, or 0 where no change was found"),
            output(f"{self.title}_probability", "probability of the target at the counterfactual"),
            output(f"{self.title}_distance", "size of the change: L2 in the latent space, L1 and L2 over the image",
                   (measure,), axes),
        )  # fmt: skip

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        autoencoder = batch.once(("autoencoder", self.title), lambda: self.load(batch.network))
        search = _Search(batch, autoencoder)
        change = yield from search.turn(self.steps, self.longest)
        change = yield from search.shorten(change)
        found = yield from search.answers(change)
        there = batch.chosen.classes.T != NO_CLASS
        apart = found.images - batch.images
        sizes = [_length(change), apart.flatten(2).abs().sum(-1), apart.flatten(2).norm(dim=-1)]
        found_for_each = {
            self.title: found.images,
            f"{self.title}_valid": found.turned.to(batch.images).where(there, torch.nan),
            f"{self.title}_probability": found.probability,
            f"{self.title}_distance": torch.stack(sizes, dim=-1).where(found.turned[..., None], torch.nan),
        }
        return Attribution(
            apart.abs().amax(2),
            apart.abs(),
            beside={name: values.transpose(0, 1) for name, values in found_for_each.items()},
        )


class _Found(NamedTuple):
    """The network's answers to changed images; NaN where no change turned the prediction.

    Attributes
    ----------
    images
        ``(target, image, channel, *space)``.
    turned, probability
        ``(target, image)``.
    """

    images: Tensor
    turned: Tensor
    probability: Tensor


class _Search:
    """A search for the smallest change of each image that turns each target.

    A change is ``(target, image, *latent)``; NaN where none is known.
    """

    def __init__(self, batch: Batch, autoencoder: Autoencoder) -> None:
        self.batch, self.autoencoder = batch, autoencoder
        self.origin = autoencoder.encode(batch.images)
        self.drawn = autoencoder.decode(self.origin)
        self.decided = torch.stack([answer.decided for answer in batch.answers])
        self.sign = torch.where(self.decided, 1.0, -1.0).to(batch.images)

    def turn(self, steps: int, longest: float) -> Generator[Questions, None, Tensor]:
        """Go beyond the boundary, then along it to where it is nearest; return the smallest change that turned."""
        change = self.origin.new_zeros(len(self.batch.answers), *self.origin.shape)
        smallest = torch.full_like(change, torch.nan)
        going = self.batch.chosen.classes.T != NO_CLASS
        slide = torch.zeros_like(self.sign)  # before the first turn, nothing but the boundary counts
        aim: Tensor | None = None
        for _ in range(steps):
            if not going.any():
                break
            margin, gradient = yield from self._margins(change, going.any(0), Needs(input_gradient=True))
            aim = -_BEYOND * margin if aim is None else aim
            turned = going & (self.sign * margin < 0)
            smallest = change.where(_over(turned & ~(_length(change) >= _length(smallest)), change), smallest)
            slide = torch.where(slide > 0, slide.where(turned, slide / 2), turned.to(slide))
            step = _towards(aim, change, margin, gradient, slide)
            length = _length(step)
            going = going & length.isfinite() & ~(turned & (length <= _SETTLED * _length(change)))
            scale = (longest / length).clamp_max(1.0)
            change = (change + _over(scale, step) * step).where(_over(going, change), change)
        return smallest

    def shorten(self, change: Tensor) -> Generator[Questions, None, Tensor]:
        """Halve the way between an image and its change until the boundary is found; return what lies just beyond."""
        low, high = torch.zeros_like(self.sign), torch.ones_like(self.sign)
        known = _flat(change).isfinite().all(-1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            margin, _ = yield from self._margins(_over(middle, change) * change, known.any(0), Needs())
            turned = self.sign * margin < 0
            low, high = low.where(turned, middle), middle.where(turned, high)
        return _over(high, change) * change

    def answers(self, change: Tensor) -> Generator[Questions, None, _Found]:
        """Ask the network as it is about the changed images."""
        batch, known = self.batch, _flat(change).isfinite().all(-1)
        images = torch.full_like(batch.zeros(batch.images.shape[1]), torch.nan)
        turned, probability = torch.zeros_like(self.decided), torch.full_like(self.sign, torch.nan)

        def fold(answer: Answer) -> None:
            own, at = _own(answer)
            turned[at] = answer.decided[own] != self.decided[at]
            images[at], probability[at] = answer.inputs[own], answer.probability[own]

        yield Questions(len(change), self._make(change), fold, among=_rows(known.any(0)))
        turned &= known
        return _Found(images.where(_over(turned, images), torch.nan), turned, probability.where(turned, torch.nan))

    def _margins(
        self, change: Tensor, among: Tensor, needs: Needs
    ) -> Generator[Questions, None, tuple[Tensor, Tensor]]:
        """Ask how far the network is from the boundary, ``(target, image)``, and for the gradient of that."""
        margin, gradient = torch.zeros_like(self.sign), torch.zeros_like(change)

        def fold(answer: Answer) -> None:
            own, at = _own(answer)
            margin[at] = answer.score[own]
            if needs.input_gradient:
                latent = self.origin[answer.image[own]] + change[at]
                gradient[at] = self.autoencoder.pull_back(latent, answer.gradient[own])

        ask = margins if self.batch.chosen.against is None else unrounded
        yield Questions(len(change), self._make(change), fold, needs, ask, among=_rows(among))
        return margin, gradient

    def _make(self, change: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Ask about each target's change: question number `step` is about that of the target `step`."""

        def make(image: Tensor, step: Tensor) -> Tensor:
            drawn = self.autoencoder.decode(self.origin[image] + change[step, image].nan_to_num(0.0))
            return self.batch.images[image] + drawn - self.drawn[image]

        return make


def margins(network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
    """Ask how far each class is ahead of the best of the others, or of a half: above 0 where it is decided for."""
    logits = network(inputs)
    if network.config.activation != "softmax":
        return logits
    best = logits.topk(2, dim=1)
    leads = torch.arange(logits.shape[1], device=logits.device) == best.indices[:, :1]
    return logits - best.values[:, :1].where(~leads, best.values[:, 1:])


def unrounded(network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
    """Ask the network as it is, in single precision: other ways to ask than `plainly` are."""
    return network(inputs)


def _towards(aim: Tensor, change: Tensor, margin: Tensor, gradient: Tensor, slide: Tensor) -> Tensor:
    """Step to where the margin would be `aim` if it were linear, and along there to the smallest change.

    `slide`, from 0 to 1, says which part of the way along the boundary is gone.
    """
    slope = _flat(gradient)
    square = slope.square().sum(-1)
    onto = _over((aim - margin) / square, gradient) * gradient
    along = _over((slope * _flat(change)).sum(-1) / square, gradient) * gradient - change
    return onto + _over(slide, along) * along


def _own(answer: Answer) -> tuple[Tensor, tuple[int, Tensor]]:
    """Find the questions about the target that is answered for, and their places along target and image."""
    own = answer.step == answer.target
    return own, (answer.target, answer.image[own])


def _flat(change: Tensor) -> Tensor:
    return change.flatten(2)


def _length(change: Tensor) -> Tensor:
    return _flat(change).norm(dim=-1)


def _over(values: Tensor, like: Tensor) -> Tensor:
    """View ``(target, image)`` so that it spreads over the other axes of `like`."""
    return values.view(*values.shape, *[1] * (like.ndim - 2))


def _rows(among: Tensor) -> Tensor:
    return among.nonzero().squeeze(1)
