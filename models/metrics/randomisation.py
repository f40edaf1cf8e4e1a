"""Sanity checks by weights: a map should change when the weights of the network are made random."""

import difflib
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import chain
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.capability import WEIGHTS
from models.draws import Draws
from models.engine import Engine
from models.errors import ConfigurationError
from models.metrics.base import Explained, Points, StackMetric, Values
from models.metrics.similarity import similarities, similarities_of_noise
from models.network import Network
from models.outputs import Frame
from models.questions import Batch


class WeightRandomisation(StackMetric):
    """The similarity of maps to those of the network once more and more of its layers are random."""

    requires = WEIGHTS

    family = "sanity"
    better = "lower"
    only_named = True
    companions = ("spearman", "random_ssim", "random_spearman")
    range = (-1.0, 1.0)

    layers: tuple[str, ...] | None = Field(
        None,
        strict=False,
        description="Modules from the output to the input, each with all it holds; none: every layer with parameters",
    )
    magnitude: bool = Field(False, description="Whether maps are compared by magnitude")

    @property
    def independent(self) -> bool:
        """True where layers are made random one at a time, rather than one after the other."""
        return False

    def check(self, network: Network) -> None:
        self._layers(network)

    def curves(self, frame: Frame, network: Network) -> dict[str, Points]:
        return dict.fromkeys(("ssim", "spearman"), self._layers(network))

    def maps(self, explained: Explained) -> Tensor:
        """Give the maps of the network as it is, ``(image, target, explainer, *space)``."""
        return explained.maps

    def explain(self, engine: Engine, batch: Batch) -> Tensor:
        """Make the maps of an engine's network, which is a random one, in the same shape."""
        return engine.maps(engine.batch(batch.images, batch.ids, chosen=batch.chosen, record=batch.record))

    def compare(self, explained: Explained) -> Values:
        engine, batch = explained.engine, explained.batch
        maps = self._signed(self.maps(explained))
        layers = self._layers(engine.network)
        random = (
            self._signed(explained_by(network, engine, lambda anew: self.explain(anew, batch)))
            for network in self._random(batch, layers)
        )
        ssim, spearman = similarities(maps, random)
        level = similarities_of_noise(explained, self.magnitude)
        random_ssim, random_spearman = (part.expand(maps.shape[:3]) for part in level)
        value, companion = (curve.mean(-1) if self.independent else curve[..., -1] for curve in (ssim, spearman))
        companions = {"spearman": companion, "random_ssim": random_ssim, "random_spearman": random_spearman}
        return Values(value, companions, {"ssim": ssim, "spearman": spearman}, layers)

    def _signed(self, maps: Tensor) -> Tensor:
        return maps.abs() if self.magnitude else maps

    def _layers(self, network: Network) -> tuple[str, ...]:
        """Name the layers that are made random, in that order."""
        modules = dict(network.module.named_modules())
        if self.layers is None:
            return layers_with_parameters(network)
        for name in self.layers:
            if name not in modules:
                nearest = difflib.get_close_matches(name, modules, n=3, cutoff=0.3)
                raise ConfigurationError(f"{self.title}: there is no layer {name!r}; the nearest names are {nearest}")
            if not any(True for _ in modules[name].parameters()):
                raise ConfigurationError(f"{self.title}: layer {name!r} has no parameters to make random")
        return self.layers

    def _random(self, batch: Batch, layers: tuple[str, ...]) -> Iterator[Network]:
        """Make the network for each point of the curve."""
        for place in range(len(layers)):
            changed = layers[place : place + 1] if self.independent else layers[: place + 1]
            yield randomised(batch, changed, whole=self.layers is not None)


class Randomisation(WeightRandomisation):
    """Weight randomisation (Adebayo et al. 2018, arXiv:1810.03292, sections 4.1 and 4.2).

    ``SSIM(R, R_l)`` with ``R_l`` the map for the same target once the layers from the output down to `l` are random
    (cascading), or `l` alone is (independent). Each map is taken to [0, 1] and the data's range is 1. The value is that
    of the wholly random network, or the mean over layers where independent. In [-1, 1]; lower is better: a map that
    stays does not tell what the network has learnt. NaN where a map is constant or missing.

    Companions: `spearman`, the same by rank correlation; `random_ssim` and `random_spearman`, the level to compare
    with, which pairs of maps of noise reach. Curves by layer, in the order in which they were made random: `ssim` and
    `spearman`.

    A layer is made random by normal numbers about zero, of the root mean square of each of its tensors: initialisers do
    not fit layers into which a BatchNorm has been folded. The network itself stays as it is.
    """

    name: Literal["cascading_randomisation", "independent_randomisation"] = "cascading_randomisation"

    @property
    def independent(self) -> bool:
        return self.name == "independent_randomisation"


def layers_with_parameters(network: Network) -> tuple[str, ...]:
    """Name the modules that have parameters of their own, from the output to the input."""
    modules = dict(network.module.named_modules())
    return tuple(name for name, part in reversed(modules.items()) if part._parameters)


def randomised(batch: Batch, layers: tuple[str, ...], whole: bool) -> Network:
    """Copy a batch's network with the parameters of some layers, and with `whole` of all that they hold, made random.

    It is done once for all batches. Copies share what is not random, and what is, so that the memory for all of them is
    that of the parameters.
    """
    network = batch.network

    def copy() -> Network:
        module = network.module
        own = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
        for layer in layers:
            for part, parameter in module.get_submodule(layer).named_parameters(recurse=whole):
                name = f"{layer}.{part}"
                own[id(parameter)] = batch.once(("random", name), partial(_random, parameter, name))
        anew = deepcopy(network, {**own})
        for before, after in zip(module.parameters(), anew.module.parameters(), strict=True):
            if after is not own[id(before)]:  # parts in TorchScript copy themselves, and share nothing
                after.copy_(own[id(before)])
        return anew

    copied: Network = batch.once(("randomised", layers, whole), copy)
    return copied


def explained_by(network: Network, engine: Engine, explain: Callable[[Engine], Tensor]) -> Tensor:
    """Explain by another network with all else as the engine has it; the passes are counted as the engine's."""
    anew = Engine(network, engine.explainers, engine.target, engine.batch_size, engine.fitted)
    maps = explain(anew)
    engine.forward_passes += anew.forward_passes
    engine.backward_passes += anew.backward_passes
    return maps


def _random(parameter: nn.Parameter, name: str) -> nn.Parameter:
    """Draw a parameter with the same root mean square."""
    (noise,) = Draws("weights", [name], parameter.device).gaussian(parameter.shape)
    drawn = torch.empty_like(parameter).copy_(parameter.square().mean().sqrt() * noise.to(parameter))
    return nn.Parameter(drawn, requires_grad=False)
