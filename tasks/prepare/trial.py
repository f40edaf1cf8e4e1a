"""A trial of the network on images of the cohort, before anything is planned to be computed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import ConfigurationError
from models.loading import Files, load_module
from models.network import Network
from models.trial import spread
from tasks.cohort.entry import Entry
from tasks.cohort.reading import Unreadable
from tasks.cohort.sources import Find
from tasks.plan.plan import Plan
from tasks.work.images import Image, read_images, stack, stack_records
from tasks.work.misfits import Misfit

logger = logging.getLogger(__name__)

_TRIED = 3


def try_reading(plan: Plan, entries: Sequence[Entry], find: Find) -> list[Image]:
    """Read some images of the cohort; none, if none can be read.

    Raises
    ------
    ConfigurationError
        If none of them fits what the network takes; one that does not is refused when its turn comes.
    """
    readable = [entry for entry in entries if not entry.reason]
    count = _TRIED if plan.model.tiles.is_whole else 1  # a large image says enough, and memory holds one
    chosen = readable[:: max(1, len(readable) // count)][:count]
    tried = read_images(plan, chosen, plan.cohort.make_preprocessing(), find)
    if tried and all(isinstance(image, Misfit) for image in tried):
        raise ConfigurationError(f"none of {len(tried)} images that were tried can be explained: {tried[0]}")
    return [image for image in tried if not isinstance(image, Unreadable)]


def read_some(plan: Plan, entries: Sequence[Entry], find: Find) -> tuple[Tensor, Tensor] | None:
    """Read what the network takes of some images of the cohort; None if none can be read.

    Returns
    -------
    tuple
        ``(image, channel, *space)``, and the records beside them, ``(image, field)``.

    Raises
    ------
    ConfigurationError
        If none of them fits what the network takes.
    """
    read = try_reading(plan, entries, find)
    return (stack([image.prepared.network_input for image in read]), stack_records(read)) if read else None


def try_network(network: Network, files: Files | bytes, images: Tensor, record: Tensor | None = None) -> None:
    """Try the network on images of the cohort.

    Parameters
    ----------
    files
        Those of the network, to build it once more as it was trained.
    images
        ``(image, channel, *space)``.
    record
        ``(image, field)`` beside them.

    Raises
    ------
    ConfigurationError
        If its answers are no numbers, no logits, do not depend on the image alone, or are not those of the network as
        it was trained.
    """
    record = images.new_zeros(len(images), 0) if record is None else record
    images, record = network.tiles.some(images, record, _TRIED)
    logits = network.check(images, record)
    if not logits.isfinite().any():
        raise ConfigurationError(
            f"{network.name} answers NaN or infinity about all of {len(images)} images that were tried: see to "
            "model.weights and to the range of values that cohort.preprocessing ends in"
        )
    if len(images) > 1 and not bool(spread(logits) > 0):
        logger.warning("%s gives the same answer about all of %d images that were tried", network.name, len(images))
    network.check_same(load_module(network.config, files).eval().to(network.device), images, record)


@dataclass(frozen=True)
class Disagreement:
    """Differences between the folds of a model.

    Attributes
    ----------
    folds, images
        How many folds were asked about how many images, or windows of images.
    apart
        The largest difference between two folds' probabilities of a class, of the mean over space where the network
        segments; of the values where it is a regression.
    divided
        The images to which folds give different classes; None where classes do not exclude each other.
    """

    folds: int
    images: int
    apart: float
    divided: int | None


def disagreement(network: Network, images: Tensor, record: Tensor) -> Disagreement | None:
    """Ask the folds of a network about ``(image, channel, *space)``, with ``(image, field)``; None if it has none."""
    if len(network.alone) < 2:
        return None
    images, record = network.tiles.some(images, record, _TRIED)
    with torch.no_grad(), network.exact():
        answers = [network.logits_of(ask(network.prepare(images), record)) for ask in network.alone]
        found = torch.stack([network.probability(logits) for logits in answers])
    found = found.flatten(3).mean(-1) if network.segments else found
    is_exclusive = network.config.activation == "softmax"
    return Disagreement(
        folds=len(found),
        images=len(images),
        apart=float((found.amax(0) - found.amin(0)).amax()),
        divided=int((found.argmax(-1) != found[0].argmax(-1)).any(0).sum()) if is_exclusive else None,
    )
