"""What a kind of uncertainty is: the members that it makes of a network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.network import Network
from models.uncertainty.affine import Affine

View = Callable[[Sequence[str], Tensor], Affine]
"""From the names of images and an image-like tensor to how a member sees them."""


@dataclass(frozen=True)
class Member:
    """A network to ask, and the view of the image that it is given: None if it is the image as it is."""

    network: Network
    view: View | None = None


class Uncertainty(BaseModel):
    """A kind of members; its fields are its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    about: ClassVar[str]

    name: str
    label: str | None = Field(None, description="What it is called in the store; none: the name")
    explainers: tuple[str, ...] | None = Field(
        None, strict=False, description="Whose maps every member makes; none: those of all"
    )

    @property
    def title(self) -> str:
        return self.label or self.name

    def check(self, network: Network) -> None:
        """Raise ValueError if the network can have no such members."""

    def members(self, network: Network) -> list[Member]:
        """Make the members of a network."""
        raise NotImplementedError

    def pinned(self) -> Self:
        """The same, with the digest of every file that it names."""
        return self
