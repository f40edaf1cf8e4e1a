"""A trial of the network on images of the cohort, before anything is planned to be computed."""

import logging
from collections.abc import Sequence

from torch import Tensor

from models.errors import ConfigurationError
from models.loading import load_module
from models.network import Network
from models.trial import spread
from tasks.cohort.entry import Entry
from tasks.cohort.reading import Unreadable
from tasks.cohort.sources import Find
from tasks.plan.plan import Plan
from tasks.work.images import Misfit, read_images, stack

logger = logging.getLogger(__name__)

_TRIED = 3


def read_some(plan: Plan, entries: Sequence[Entry], find: Find) -> Tensor | None:
    """Read what the network takes of some images of the cohort: ``(image, channel, *space)``; None if none can be read.

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
    inputs = [image[0].network_input for image in tried if not isinstance(image, Unreadable)]
    return stack(inputs) if inputs else None


def try_network(network: Network, weights: bytes, images: Tensor) -> None:
    """Try the network on images of the cohort.

    Parameters
    ----------
    weights
        Those of the network, to build it once more as it was trained.
    images
        ``(image, channel, *space)``.

    Raises
    ------
    ConfigurationError
        If its answers are no numbers, no logits, do not depend on the image alone, or are not those of the network as
        it was trained.
    """
    images = network.tiles.some(images, _TRIED)
    logits = network.check(images)
    if not logits.isfinite().any():
        raise ConfigurationError(
            f"{network.name} answers NaN or infinity about all of {len(images)} images that were tried: see to "
            "model.weights and to the range of values that cohort.preprocessing ends in"
        )
    if len(images) > 1 and not bool(spread(logits) > 0):
        logger.warning("%s gives the same answer about all of %d images that were tried", network.name, len(images))
    network.check_same(load_module(network.config, weights).eval().to(network.device), images)
