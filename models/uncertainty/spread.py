"""The spread of members: how unsure the prediction is, and how far the maps vary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.engine import Engine
from models.network import Network
from models.questions import Batch
from models.targets import NO_CLASS
from models.uncertainty.members import Member


@dataclass(frozen=True)
class Spread:
    """The spread of the members' predictions and maps for some images, on the CPU.

    Attributes
    ----------
    entropy, mutual_information
        ``(image,)`` in bits. The entropy of the members' mean probability, and the part of it that is due to their
        differences: the entropy of the mean less the mean of the entropies (Houlsby et al. 2011, arXiv:1112.5745; Gal
        et al. 2017, arXiv:1703.02910). Where classes do not exclude each other, the largest over classes; where the
        network segments, the mean over space. None for a regression.
    outputs
        ``(image, class)``, the standard deviation of the probability, or of a regression's value.
    mean, spread
        ``(image, target, explainer, *space)``, mean and standard deviation of the maps; NaN where there is none.
    maps
        ``(image, target, explainer)``, ``||spread|| / ||mean||`` over space: the spread of the maps as a share of them.
    """

    entropy: Tensor | None
    mutual_information: Tensor | None
    outputs: Tensor
    mean: Tensor
    spread: Tensor
    maps: Tensor


def ask_members(
    engine: Engine,
    members: Sequence[Member],
    batch: Batch,
    explainers: Sequence[str] | None = None,
) -> Spread:
    """Let every member predict and explain some images, one member after the other.

    Parameters
    ----------
    engine
        The engine of the explainers and the target.
    batch
        The images, and the explained classes of each, whatever a member would choose.
    explainers
        Titles of the explainers whose maps are made; None: all of the engine.
    """
    wanted = [index for index, one in enumerate(engine.explainers) if explainers is None or one.title in explainers]
    asked = [engine.explainers[index] for index in wanted]
    is_regression = engine.network.config.activation == "identity"
    outputs, maps, entropies = _Moments(), _Moments(), _Moments()
    for member in members:
        own = Engine(member.network, asked, engine.target, engine.batch_size, engine.fitted)
        view = None if member.view is None else member.view(batch.ids, batch.images)
        seen = batch.images if view is None else view.look(batch.images)
        chosen = batch.chosen if view is None else view.choose(batch.chosen)
        again = own.batch(seen, batch.ids, chosen=chosen, record=batch.record)
        probability, made = member.network.probability(again.logits), own.maps(again)
        if view is not None:
            made = view.back(made.flatten(1, 2)).view_as(made) if wanted else made
            probability = view.back(probability) if probability.ndim > 2 else probability
        engine.forward_passes += own.forward_passes
        engine.backward_passes += own.backward_passes
        outputs.add(probability.double())
        if not is_regression:
            entropies.add(_entropy(probability.double(), engine.network))
        maps.add(made.double())
    of_mean = None if is_regression else _entropy(outputs.mean, engine.network)
    size = (outputs.spread.flatten(2).mean(-1) if outputs.spread.ndim > 2 else outputs.spread).float().cpu()
    there = batch.chosen.classes != NO_CLASS
    mean, spread = (_whole(part, there, wanted, len(engine.explainers)) for part in (maps.mean, maps.spread))
    norm = mean.flatten(3).norm(dim=-1)
    return Spread(
        entropy=None if of_mean is None else _most(of_mean),
        mutual_information=None if of_mean is None else _most((of_mean - entropies.mean).clamp_min(0)),
        outputs=size,
        mean=mean,
        spread=spread,
        maps=(spread.flatten(3).norm(dim=-1) / norm).where(norm > 0, torch.nan),
    )


class _Moments:
    """The mean and standard deviation of tensors that come one after the other (Welford 1962)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, value: Tensor) -> None:
        self.count += 1
        before = value - self.mean.to(value)
        self.mean = self.mean.to(value) + before / self.count
        self._squares = self._squares.to(value) + before * (value - self.mean)

    @property
    def spread(self) -> Tensor:
        """The deviation of a sample, whose divisor is one less than its size."""
        return (self._squares / (self.count - 1)).sqrt()


def _entropy(probability: Tensor, network: Network) -> Tensor:
    """Compute the entropy in bits, ``(image, 1 or class)``: of all classes together, or of each by itself."""
    bits = torch.special.entr(probability)
    found = (
        bits.sum(1, keepdim=True)
        if network.config.activation == "softmax"
        else bits + torch.special.entr(1 - probability)
    )
    return (found.flatten(2).mean(-1) if found.ndim > 2 else found) / math.log(2)


def _most(values: Tensor) -> Tensor:
    return values.amax(1).float().cpu()


def _whole(maps: Tensor, there: Tensor, wanted: Sequence[int], explainers: int) -> Tensor:
    """Put the maps of some explainers into their places among all; NaN where there is no target."""
    whole = maps.new_full((*maps.shape[:2], explainers, *maps.shape[3:]), torch.nan)
    whole[:, :, list(wanted)] = maps
    return whole.where(there[..., *[None] * (maps.ndim - 2)], torch.nan).float().cpu()
