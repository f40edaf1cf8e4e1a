"""A member: a network that might as well have been trained, or a view in which an image might as well be seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from models.network import Network
from models.uncertainty.affine import Affine

View = Callable[[Sequence[str], Tensor], Affine]
"""A function from the names of images and an image-like tensor to a member's view of them."""


@dataclass(frozen=True)
class Member:
    """A network to ask, and the view of the image that the network is given; None: the image as it is."""

    network: Network
    view: View | None = None
