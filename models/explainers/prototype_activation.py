from collections.abc import Generator
from typing import Literal

import torch
from torch import Tensor

from models.answers import is_opposite
from models.capability import GRADIENT, LAYERS
from models.errors import ConfigurationError
from models.explainers.looking import LookingExplainer, upsample
from models.network import INPUT_OF, Network
from models.outputs import IMAGE_ID, Axis, Computed, Frame, Output
from models.questions import Batch, Needs, Questions, Seen
from models.trial import alike

_ROUNDING = 1e-5


class PrototypeActivation(LookingExplainer):
    """Activation maps of a network's prototypes, as parts of the logit (Chen et al. 2019, arXiv:1806.10574).

    ``map = sum_j w_j max_q s_j(q) a_j / sum_p a_j(p)``, where ``s_j`` is the similarity to the prototype j at each
    place of the latent grid, ``w_j`` its weight in the target, and ``a_j`` the similarity interpolated to the image's
    grid, less its minimum. The part of a prototype in the logit, which the network takes from one place, is so spread
    over the places that are alike, and the map sums to the logit without its bias.

    Beside the map, the similarity of each image to each prototype, ``max_q s_j(q)``, is stored, and the place where it
    is reached. The network has to declare a `prototype_layer`, whose output is the similarities ``(image, prototype,
    *space)``, and to end in a linear layer that takes their maxima over space, as
    `models.networks.PrototypeClassifier` does.
    """

    requires = LAYERS | GRADIENT

    name: Literal["prototype_activation"] = "prototype_activation"

    @property
    def prefix(self) -> str:
        return self.label or "prototype"

    def watched(self, network: Network) -> tuple[str, ...]:
        return (prototype_layer(network),)

    def needs(self, network: Network) -> Needs:
        return Needs(activations=frozenset(self.watched(network)), maps=frozenset({self}))

    def look(self, seen: Seen, network: Network) -> Tensor:
        (layer,) = self.watched(network)
        similarity = seen.activations[layer]
        # The gradient is the weight where the similarity is greatest; of several such places, each has a share of it.
        parts = (seen.gradients[layer] * similarity).flatten(2).sum(-1)
        maps = torch.zeros_like(seen.inputs[:, 0])
        for part, own in zip(parts.unbind(1), similarity.unbind(1), strict=True):
            maps += part.view(-1, *[1] * (maps.ndim - 1)) * _spread(upsample(own, seen.inputs))
        return maps

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        own = Axis(name=self.prefix, labels=_named(network), long_name="prototype")
        space = Axis(name=f"{self.prefix}_axis", labels=frame.space, long_name="axis of the image")
        return (
            *super().declare(frame, network),
            Output(
                name=f"{self.prefix}_similarity",
                dims=(IMAGE_ID, own.name),
                kind="vector",
                long_name="greatest similarity to the prototype over the image",
                axes=(own,),
            ),
            Output(
                name=f"{self.prefix}_place",
                dims=(IMAGE_ID, own.name, space.name),
                kind="vector",
                long_name="index of the voxel in the middle of the patch that is most similar to the prototype",
                axes=(own, space),
            ),
        )

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        made = yield from super().produce(batch)
        similarity = batch.answers[0].activations[prototype_layer(batch.network)].to(batch.images)
        greatest, at = similarity.flatten(2).max(-1)
        indices = torch.stack(torch.unravel_index(at, similarity.shape[2:]), dim=-1)
        sides = torch.tensor(batch.images.shape[2:]) / torch.tensor(similarity.shape[2:])
        places = (indices + 0.5) * sides.to(batch.images) - 0.5
        return made | {f"{self.prefix}_similarity": greatest, f"{self.prefix}_place": places}


def prototype_layer(network: Network) -> str:
    """Look up the layer whose output is the similarities to prototypes.

    Raises
    ------
    ConfigurationError
        If the network declares none, or its logits are not linear in the maxima over space of its output.
    """
    declared = getattr(network.module, "prototype_layer", None)
    if not isinstance(declared, str):
        raise ConfigurationError(
            f"{network.name} declares no layer of prototypes (`prototype_layer`), as models.networks."
            "PrototypeClassifier does: leave prototype_activation out; the result `prototypes` finds cases that stand "
            "for a class of any network"
        )
    layer = network.layer(declared)
    if not _takes_maxima(network, layer):
        raise ConfigurationError(
            f"the last linear layer of {network.name} does not take the maxima over space of {layer!r}, so that the "
            "logit is not a sum over prototypes: leave prototype_activation out"
        )
    return layer


def _takes_maxima(network: Network, layer: str) -> bool:
    if network.classifier is None:
        return False
    taken = INPUT_OF + network.classifier
    with torch.no_grad(), network.exact(), network.watch([layer, taken]) as outputs:
        network(network.synthetic())
    return alike(outputs[layer].flatten(2).amax(-1), outputs[taken])


def _named(network: Network) -> tuple[str, ...]:
    """Name the prototypes by the class in whose logit each counts most, and number those of a class."""
    assert network.classifier is not None
    weight: Tensor = network.module.get_parameter(f"{network.classifier}.weight")
    if is_opposite(len(weight), len(network.config.classes), network.config.activation):
        weight = torch.cat([-weight, weight]).clamp_min(0)
    of_class = [network.config.classes[index] for index in weight.abs().argmax(0).tolist()]
    return tuple(f"{name} {of_class[: place + 1].count(name)}" for place, name in enumerate(of_class))


def _spread(similarity: Tensor) -> Tensor:
    """Take ``(image, *space)`` to shares that sum to 1; evenly where the similarity is the same everywhere."""
    own = similarity.flatten(1)
    above = own - own.amin(1, keepdim=True)
    is_flat = above.amax(1, keepdim=True) <= _ROUNDING * own.abs().amax(1, keepdim=True)
    above = above.masked_fill(is_flat, 1)
    return (above / above.sum(1, keepdim=True)).view_as(similarity)
