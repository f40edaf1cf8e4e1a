"""The base of an explainer: the questions it puts to the network, and how it folds the answers into a map."""

from collections.abc import Generator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.capability import GRADIENT, LAYERS
from models.fits.base import Fit
from models.flags import MapFlag
from models.network import Network
from models.outputs import EXPLAINER, IMAGE_ID, Axis, Computed, Frame, Output, flags_of
from models.producer import Producer
from models.questions import Answer, Batch, Needs, Questions, Seen

MAPS, MAP_FLAGS = "attribution", "map_flags"
MANTISSA_KEPT = 7

Explaining = Generator[Questions, None, Tensor]


class Explainer(Producer):
    """A named way to explain an image by asking the network; its fields are its parameters."""

    fits: ClassVar[tuple[type[Fit], ...]] = ()

    def needs(self, network: Network) -> Needs:
        """Say which parts of the answer to the plain question, about the image as it is, are used.

        Raises
        ------
        ConfigurationError
            If the explainer cannot be right on this network.
        """
        return Needs()

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        """Declare the outputs that are stored of every image; all of them have the dimension `image_id`."""
        raise NotImplementedError

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        """Yield questions, whose answers have been folded when the generator goes on; return the values.

        Returns
        -------
        dict
            By name of the output, ``(image, ...)``.
        """
        raise NotImplementedError


class MapExplainer(Explainer):
    """An explainer that makes an attribution map for each target."""

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        own = (Axis(name=EXPLAINER, labels=(self.title,), long_name="explainer"),)
        of = (IMAGE_ID, "target", EXPLAINER)
        return (
            Output(
                name=MAPS,
                dims=(*of, *frame.space),
                kind="map",
                long_name="attribution map, raw and signed; NaN where not computed",
                axes=own,
                mantissa=MANTISSA_KEPT,
                attrs={"comment": f"mantissa rounded to {MANTISSA_KEPT} bits"},
            ),
            Output(
                name=MAP_FLAGS,
                dims=of,
                kind="flags",
                long_name="what is odd about the map; bits that add up",
                dtype="uint8",
                fill=0,
                flags=flags_of(MapFlag),
                axes=own,
            ),
        )

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        maps = yield from self.explain(batch)
        return {MAPS: maps.transpose(0, 1)}

    def explain(self, batch: Batch) -> Explaining:
        """Yield questions, whose answers have been folded when the generator goes on; return the maps.

        Returns
        -------
        Tensor
            ``(target, image, *space)`` on the images' grid: signed and unnormalised.
        """
        yield from ()
        return torch.stack([self.attribute(answer, batch.network) for answer in batch.answers])

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        """Make the maps ``(image, *space)`` of one target from the answer to the plain question alone."""
        raise NotImplementedError


class LookingExplainer(MapExplainer):
    """An explainer whose map is made of the outputs of layers, of each window by itself.

    Where an image has several windows, their maps are averaged by the windows' weights.
    """

    requires = LAYERS

    def watched(self, network: Network) -> tuple[str, ...]:
        """Name the layers that are looked at."""
        raise NotImplementedError

    def look(self, seen: Seen, network: Network) -> Tensor:
        """Make the maps ``(window, *space)`` of some windows; zeros where all gradients are, if these are required."""
        raise NotImplementedError

    def needs(self, network: Network) -> Needs:
        self.watched(network)
        return Needs(maps=frozenset({self}))

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return answer.maps[self]


class LayerExplainer(LookingExplainer):
    """An explainer that looks at the output of one layer, and the gradient with respect to it."""

    requires = LAYERS | GRADIENT

    layer: str | None = Field(None, description="Layer by its dotted name; none: the last with a spatial extent")

    def watched(self, network: Network) -> tuple[str, ...]:
        return (network.layer(self.layer),)

    def look(self, seen: Seen, network: Network) -> Tensor:
        (layer,) = self.watched(network)
        cam = self.combine(seen.activations[layer], seen.gradients[layer])
        return upsample(cam.relu(), seen.inputs)

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Make ``(image, *layer_space)`` of ``(image, feature, *layer_space)``; it is rectified afterwards."""
        raise NotImplementedError


def strongest_channel(values: Tensor, channel: int = 1) -> Tensor:
    """Take at each place the value of the largest magnitude over the axis `channel`, which is removed."""
    if values.shape[channel] == 1:
        return values.squeeze(channel)
    return values.gather(channel, values.abs().argmax(channel, keepdim=True)).squeeze(channel)


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Sum ``(image, feature, *layer_space)`` over features with weights ``(image, feature)``."""
    return (weights.view(*weights.shape, *[1] * (activations.ndim - 2)) * activations).sum(1)


def upsample(maps: Tensor, images: Tensor) -> Tensor:
    """Interpolate ``(image, *layer_space)`` bi- or trilinearly to the grid of `images`."""
    mode = "bilinear" if images.ndim == 4 else "trilinear"
    return functional.interpolate(maps[:, None], size=images.shape[2:], mode=mode, align_corners=False)[:, 0]
