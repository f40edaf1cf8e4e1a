"""Targets: the scalars of the network's output that are explained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.errors import ConfigurationError
from models.network import Network

NO_CLASS = -1


@dataclass(frozen=True)
class Chosen:
    """The explained part of each image's output: for each target one scalar, a sum of the network's outputs.

    Attributes
    ----------
    classes
        ``(image, target)`` index of the output; `NO_CLASS` where an image has no such target.
    against
        ``(image, target)`` index of the output that is subtracted; None if there is none.
    region
        ``(image, target, *space)``, the places that are summed over; None if the output has no space.
    """

    classes: Tensor
    against: Tensor | None = None
    region: Tensor | None = None

    def rows(self, index: Tensor | slice) -> "Chosen":
        return self._each([self], lambda parts: parts[0][index])

    @classmethod
    def join(cls, parts: Sequence["Chosen"]) -> "Chosen":
        """Put the choices of several batches together."""
        return parts[0] if len(parts) == 1 else cls._each(parts, torch.cat)

    @staticmethod
    def _each(parts: Sequence["Chosen"], change: Callable[[list[Tensor]], Tensor]) -> "Chosen":
        against = [part.against for part in parts if part.against is not None]
        region = [part.region for part in parts if part.region is not None]
        classes = change([part.classes for part in parts])
        return Chosen(classes, change(against) if against else None, change(region) if region else None)

    def score(self, outputs: Tensor) -> Tensor:
        """Reduce ``(image, class[, *space])`` to ``(image, target)``: the sum over the region, or the class itself."""
        found = self._of(outputs, self.classes)
        return found if self.against is None else found - self._of(outputs, self.against)

    def mean(self, outputs: Tensor) -> Tensor:
        """Reduce as `score` does, but by the mean over the region."""
        score = self.score(outputs)
        return score if self.region is None else score / self.region.flatten(2).sum(-1).clamp_min(1)

    def decided(self, probability: Tensor, activation: str) -> Tensor:
        """Tell whether the network decides for the explained class: ``(image, target)`` bool.

        For a difference, the class has to be ahead of the other. Else its probability has to be the largest (softmax)
        or over a half (sigmoid), in most of the region where there is one. A regression decides for nothing.
        """
        if self.against is not None:
            return self.score(probability) > 0
        if activation == "softmax":
            classes = self.classes.clamp_min(0)
            wins = _largest(probability) == classes.view(*classes.shape, *[1] * (probability.ndim - 2))
        else:
            wins = _taken(probability, self.classes) > 0.5
        if self.region is not None:
            places = self.region.flatten(2)
            wins = 2 * (wins.flatten(2) & places).sum(-1) > places.sum(-1)
        return wins & (activation != "identity")

    def _of(self, outputs: Tensor, classes: Tensor) -> Tensor:
        chosen = _taken(outputs, classes)
        return chosen if self.region is None else (chosen * self.region).flatten(2).sum(-1)


class Target(BaseModel):
    """The base of a target: it chooses the explained classes of each image."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def labels(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Name the targets, for a network of these `classes`."""
        raise NotImplementedError

    def check(self, network: Network) -> None:
        """Raise ConfigurationError if the network does not have the classes that are to be explained."""
        if network.segments:
            raise ConfigurationError("the model returns a map for each class: use the target `region`")

    def choose(self, logits: Tensor, network: Network, masks: Tensor | None) -> Chosen:
        """Choose by the logits ``(image, class[, *space])`` and the masks ``(image, *space)``."""
        raise NotImplementedError

    def foresee(self, images: Tensor, network: Network, masks: Tensor | None) -> Chosen | None:
        """Choose for ``(image, channel, *space)`` before the network answers; None: the logits decide."""
        return None

    def _known(self, names: tuple[str, ...], network: Network) -> None:
        unknown = [name for name in names if name not in network.config.classes]
        if unknown:
            raise ConfigurationError(f"target names {unknown}, but model.classes are {list(network.config.classes)}")
        if len(set(names)) < len(names):
            raise ConfigurationError(f"target names a class twice: {', '.join(names)}: name each once")


class Predicted(Target):
    """The predicted class of each image, or the `k` classes with the largest logits, the largest first."""

    name: Literal["predicted"] = "predicted"
    k: int = Field(1, ge=1)

    def labels(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"rank {rank}" for rank in range(1, self.k + 1))

    def check(self, network: Network) -> None:
        super().check(network)
        if self.k > len(network.config.classes):
            raise ConfigurationError(f"target.k is {self.k}, but the model has {len(network.config.classes)} classes")

    def choose(self, logits: Tensor, network: Network, masks: Tensor | None) -> Chosen:
        return Chosen(logits.topk(self.k, dim=1).indices)


class Classes(Target):
    """Named outputs, equal for every image: classes, or the values of a regression."""

    name: Literal["classes"] = "classes"
    classes: tuple[str, ...] = Field(strict=False, min_length=1)

    def labels(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return self.classes

    def check(self, network: Network) -> None:
        super().check(network)
        self._known(self.classes, network)

    def choose(self, logits: Tensor, network: Network, masks: Tensor | None) -> Chosen:
        return Chosen(_indices(self.classes, network, logits))

    def foresee(self, images: Tensor, network: Network, masks: Tensor | None) -> Chosen:
        return self.choose(images, network, masks)


class OverThreshold(Target):
    """Every class whose probability is over its threshold; the maps of the other classes are NaN."""

    name: Literal["over_threshold"] = "over_threshold"
    threshold: float | dict[str, float] = Field(0.5, description="For all classes, or one for each by its name")

    def labels(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return classes

    def check(self, network: Network) -> None:
        super().check(network)
        if isinstance(self.threshold, dict) and set(self.threshold) != set(network.config.classes):
            raise ConfigurationError(
                f"target.threshold has {sorted(self.threshold)}, but model.classes are {list(network.config.classes)}"
            )
        limits = [*self.threshold.values()] if isinstance(self.threshold, dict) else [self.threshold]
        if beyond := [limit for limit in limits if not 0 <= limit <= 1 and network.config.activation != "identity"]:
            raise ConfigurationError(f"target.threshold is {beyond[0]:g}, and probabilities lie between 0 and 1")

    def choose(self, logits: Tensor, network: Network, masks: Tensor | None) -> Chosen:
        names = network.config.classes
        limits = [self.threshold[name] if isinstance(self.threshold, dict) else self.threshold for name in names]
        classes = _indices(names, network, logits)
        over = network.probability(logits) > logits.new_tensor(limits)
        return Chosen(classes.where(over, NO_CLASS))


class Difference(Target):
    """The logit of one class minus that of another: the evidence for the one rather than the other."""

    name: Literal["difference"] = "difference"
    of: str
    against: str

    def labels(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return (f"{self.of} - {self.against}",)

    def check(self, network: Network) -> None:
        super().check(network)
        self._known((self.of, self.against), network)

    def choose(self, logits: Tensor, network: Network, masks: Tensor | None) -> Chosen:
        return Chosen(_indices((self.of,), network, logits), _indices((self.against,), network, logits))

    def foresee(self, images: Tensor, network: Network, masks: Tensor | None) -> Chosen:
        return self.choose(images, network, masks)


class Region(Target):
    """The logit of a class summed over a region, for networks that segment (Vinogradova et al. 2020, arXiv:2002.11434).

    The region stays that of the image as it is when the image is changed. An image whose region is empty has no such
    target.
    """

    name: Literal["region"] = "region"
    classes: tuple[str, ...] = Field(strict=False, min_length=1)
    of: Literal["predicted", "mask"] = Field(
        "predicted", description="Where the class is predicted, or where the cohort's mask is"
    )

    def labels(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return self.classes

    def check(self, network: Network) -> None:
        if not network.segments:
            raise ConfigurationError("target `region` needs a model that returns a map for each class")
        self._known(self.classes, network)

    def choose(self, logits: Tensor, network: Network, masks: Tensor | None) -> Chosen:
        classes = _indices(self.classes, network, logits)
        if self.of == "mask":
            if masks is None:
                raise ConfigurationError("target `region` of the mask: the cohort has no masks")
            region = masks[:, None].expand(-1, classes.shape[1], *masks.shape[1:])
        elif network.config.activation == "softmax":
            region = _largest(logits) == classes[0].view(1, -1, *[1] * (logits.ndim - 2))
        else:
            region = logits[:, classes[0]] > 0
        return Chosen(classes.where(region.flatten(2).any(-1), NO_CLASS), region=region)

    def foresee(self, images: Tensor, network: Network, masks: Tensor | None) -> Chosen | None:
        return self.choose(images, network, masks) if self.of == "mask" else None


def _taken(outputs: Tensor, classes: Tensor) -> Tensor:
    """Take the outputs of each image's classes, ``(image, target[, *space])``."""
    index = classes.clamp_min(0)
    if outputs.ndim == 2:
        return outputs.gather(1, index)
    return outputs[torch.arange(len(outputs), device=outputs.device)[:, None], index]


def _largest(values: Tensor) -> Tensor:
    """Find the class of the largest value, ``(image, 1[, *space])``; on a CPU, `argmax` over few classes is slow."""
    return values.max(1, keepdim=True).indices


def _indices(names: tuple[str, ...], network: Network, images: Tensor) -> Tensor:
    """Repeat the places of some classes for each row of `images` or their logits."""
    wanted = torch.tensor([network.config.classes.index(name) for name in names], device=images.device)
    return wanted.expand(len(images), -1)


TargetConfig = Annotated[Predicted | Classes | OverThreshold | Difference | Region, Field(discriminator="name")]
