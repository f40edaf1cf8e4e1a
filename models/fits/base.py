"""The base of a fit: an artefact that is computed from some images of the cohort before any image is explained."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from models.network import Network
from models.outputs import Computed, Frame, Output
from models.producer import Producer


class Known(Protocol):
    """An image, as far as it is known before it is read."""

    @property
    def id(self) -> str: ...

    @property
    def label(self) -> str | None: ...


class Fit(Producer):
    """A named way to compute an artefact, which explainers use; its fields are its parameters."""

    def choose(self, known: Sequence[Known], count: int) -> tuple[str, ...]:
        """Choose the images that the artefact is computed from: `count` at even distances, or all if there are fewer.

        Parameters
        ----------
        known
            The readable images, in the cohort's order.
        count
            How many images the cohort's configuration gives to fits.
        """
        count = min(count, len(known))
        return tuple(known[number * len(known) // count].id for number in range(count))

    def declare(self, frame: Frame, network: Network, images: int) -> tuple[Output, ...]:
        """Declare the arrays of the artefact, none of which has the dimension `image_id`."""
        raise NotImplementedError

    def compute(self, network: Network, images: Tensor) -> Computed:
        """Compute the artefact, by name of the output, from ``(image, channel, *space)`` as the network takes it."""
        raise NotImplementedError
