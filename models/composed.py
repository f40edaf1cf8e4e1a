"""Modules that are made of other networks, which they ask for the part of their output that counts."""

from abc import ABC, abstractmethod

from torch import nn


class Composed(nn.Module, ABC):
    """A module made of networks of any form, whose own output is a tensor and needs no naming of a part.

    Attributes
    ----------
    parts
        The networks.
    """

    @property
    @abstractmethod
    def parts(self) -> tuple[nn.Module, ...]: ...

    @abstractmethod
    def title(self, of: str) -> str:
        """Name the form in words, by that of its networks."""
