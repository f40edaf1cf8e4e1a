"""The base of an explainer: the questions it puts to the network, and how it folds the answers into a map."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from models.errors import ConfigurationError
from models.fits.base import Fit
from models.flags import MapFlag, flag_maps
from models.network import Network
from models.outputs import EXPLAINER, IMAGE_ID, Axis, Computed, Frame, Kind, Output, flags_of
from models.prediction import FIELD, field_axes
from models.producer import Producer
from models.questions import Answer, Batch, Needs, Questions

RECORD_VALUES, MODALITY_SHARE = "attribution_record", "modality_share"
MAPS, MAP_FLAGS = "attribution", "map_flags"
CHANNEL_MAPS, CHANNEL_SHARE = "attribution_channel", "channel_share"
MANTISSA_KEPT = 7

CONTROLS = "control_"
"""The beginning of the names of maps that know nothing of the model."""

Explaining = Generator[Questions, None, Tensor]
ExplainingChannels = Generator[Questions, None, tuple[Tensor, Tensor]]


class Attribution(NamedTuple):
    """Attribution to the inputs of the network.

    Attributes
    ----------
    maps
        ``(target, image, *space)``.
    channels
        ``(target, image, channel, *space)``; None where the explainer takes all channels at once.
    record
        ``(target, image, field)``; None where it explains the image alone.
    of_image
        ``(target, image)``, the sum of magnitudes of the pieces of the image that stand beside the fields; None: the
        places of the map are the pieces.
    beside
        By name, the other outputs that the explainer declares, ``(image, ...)``.
    inexact
        ``(target, image)`` bool, whether the error is larger than the tolerance that the explainer was given; None:
        the explainer has none.
    """

    maps: Tensor
    channels: Tensor | None = None
    record: Tensor | None = None
    of_image: Tensor | None = None
    beside: Mapping[str, Tensor] = MappingProxyType({})
    inexact: Tensor | None = None


ExplainingInputs = Generator[Questions, None, Attribution]


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
    """An explainer that makes an attribution map for each target.

    Attributes
    ----------
    by_gradient_of_record
        Whether what it attributes to a record comes of its gradient.
    """

    by_gradient_of_record: ClassVar[bool] = False

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        own = (Axis(name=EXPLAINER, labels=(self.title,), long_name="explainer"),)
        of = (IMAGE_ID, "target", EXPLAINER)
        return (
            _maps(MAPS, "map", (*of, *frame.space), "attribution map, raw and signed; NaN where not computed", own),
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
            *(_declare_channels(frame, own) if frame.keeps_channels else ()),
            *(_declare_record(frame, own) if frame.fields else ()),
        )

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        made = yield from self.explain_inputs(batch)
        maps = made.maps.transpose(0, 1).to(batch.images)
        found = {MAPS: maps, MAP_FLAGS: _flags(made, maps), **made.beside}
        if batch.keeps_channels:
            found |= _of_channels(_or_none(made.channels, batch, batch.images.shape[1:]))
        if batch.network.fields:
            of_image = maps.abs().flatten(2).sum(-1, dtype=torch.float64).T if made.of_image is None else made.of_image
            found |= _of_record(_or_none(made.record, batch, batch.record.shape[1:]), of_image.T)
        return found

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        """Yield questions as `explain` does; return what is attributed beside the maps, too."""
        return Attribution((yield from self.explain(batch)))

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


class ChannelExplainer(MapExplainer):
    """An explainer that attributes to each channel of the image; its map combines them.

    It writes `explain_channels`, or `explain_inputs`, which has the record as well; or, made of the answer to the plain
    question alone, `attribute` and `attribute_channels`.
    """

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        if not batch.keeps_channels:
            return (yield from super().explain_inputs(batch))
        return Attribution(*(yield from self.explain_channels(batch)))

    def explain(self, batch: Batch) -> Explaining:
        maps, _ = yield from self.explain_channels(batch)
        return maps

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        """Yield questions as `explain` does; return the maps, and those of each channel.

        Returns
        -------
        tuple
            ``(target, image, *space)`` and ``(target, image, channel, *space)``.
        """
        maps = yield from super().explain(batch)
        return maps, torch.stack([self.attribute_channels(answer, batch.network) for answer in batch.answers])

    def attribute_channels(self, answer: Answer, network: Network) -> Tensor:
        """Make the maps ``(image, channel, *space)`` of one target from the answer to the plain question alone."""
        raise NotImplementedError


def _flags(made: Attribution, maps: Tensor) -> Tensor:
    """Flag the maps ``(image, target, *space)``: uint8 ``(image, target)``."""
    flags = flag_maps(maps)
    return flags if made.inexact is None else flags | made.inexact.T.to(flags) * MapFlag.INEXACT.value


def require_channels(explainers: Iterable[Explainer], channels: int) -> None:
    """Complain where there is no map of a channel to keep.

    Raises
    ------
    ConfigurationError
        If images have one channel, or no explainer attributes to each.
    """
    if channels == 1:
        raise ConfigurationError(
            "channels: keep: the model takes images of one channel, whose maps are those of the image; leave it out"
        )
    if not any(isinstance(explainer, ChannelExplainer) for explainer in explainers):
        raise ConfigurationError(
            f"channels: keep: {', '.join(explainer.title for explainer in explainers)} look at all channels at once; "
            "add an explainer that attributes to each, such as integrated_gradients or occlusion, or leave it out"
        )


def _maps(name: str, kind: Kind, dims: tuple[str, ...], about: str, own: tuple[Axis, ...]) -> Output:
    rounded = {"comment": f"mantissa rounded to {MANTISSA_KEPT} bits"}
    return Output(name=name, dims=dims, kind=kind, long_name=about, axes=own, mantissa=MANTISSA_KEPT, attrs=rounded)


def _declare_channels(frame: Frame, own: tuple[Axis, ...]) -> tuple[Output, ...]:
    of = (IMAGE_ID, "target", EXPLAINER, "channel")
    about = "attribution to each channel, raw and signed; NaN where the explainer takes all at once"
    return (
        _maps(CHANNEL_MAPS, "channel map", (*of, *frame.space), about, own),
        Output(
            name=CHANNEL_SHARE,
            dims=of,
            kind="share",
            long_name="share of each channel in the sum of magnitudes of the attribution; NaN of a blank map",
            axes=own,
        ),
    )


def _of_channels(maps: Tensor) -> Computed:
    """Name the maps of each channel, ``(image, target, channel, *space)``, and the share of each."""
    sums = maps.abs().flatten(3).sum(-1, dtype=torch.float64)
    return {CHANNEL_MAPS: maps, CHANNEL_SHARE: _shares(sums).to(maps)}


def _declare_record(frame: Frame, own: tuple[Axis, ...]) -> tuple[Output, ...]:
    of = (IMAGE_ID, "target", EXPLAINER)
    modalities = Axis(name="modality", labels=("image", "record"), long_name="input of the network")
    return (
        Output(
            name=RECORD_VALUES,
            dims=(*of, FIELD),
            kind="record",
            long_name="attribution to each field of the record, signed; NaN where the image alone is explained",
            axes=(*own, *field_axes(frame)),
        ),
        Output(
            name=MODALITY_SHARE,
            dims=(*of, "modality"),
            kind="share",
            long_name="share of image and record in the sum of magnitudes of the attribution; NaN of a blank one",
            axes=(*own, modalities),
        ),
    )


def _of_record(values: Tensor, of_image: Tensor) -> Computed:
    """Name the values of each field, ``(image, target, field)``, and the share of image and record.

    The share is ``sum |.|`` over the pieces of the image, or over the fields, as a part of both. A piece is what the
    explainer attributes to at once: a place, a segment or a window.
    """
    sums = torch.stack([of_image.to(values.device), values.abs().sum(-1, dtype=torch.float64)], dim=-1)
    return {RECORD_VALUES: values, MODALITY_SHARE: _shares(sums).to(values)}


def _shares(sums: Tensor) -> Tensor:
    """Divide by the sum over the last axis; NaN where that is 0."""
    return sums / sums.sum(-1, keepdim=True)


def _or_none(values: Tensor | None, batch: Batch, shape: Sequence[int]) -> Tensor:
    """Take ``(target, image, *shape)`` to ``(image, target, *shape)``; NaN where there are none."""
    if values is None:
        return batch.images.new_full((), torch.nan).expand(len(batch.images), len(batch.answers), *shape)
    return values.transpose(0, 1).to(batch.images)


def strongest_channel(values: Tensor, channel: int = 1) -> Tensor:
    """Take at each place the value of the largest magnitude over the axis `channel`, which is removed."""
    if values.shape[channel] == 1:
        return values.squeeze(channel)
    return values.gather(channel, values.abs().argmax(channel, keepdim=True)).squeeze(channel)
