from copy import copy, deepcopy
from itertools import chain
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.capability import WEIGHTS
from models.draws import Draws
from models.errors import ConfigurationError
from models.network import Network
from models.uncertainty.base import Uncertainty
from models.uncertainty.members import Member

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class MCDropout(Uncertainty):
    """Monte Carlo dropout (Gal and Ghahramani 2016, arXiv:1506.02142).

    A member is the network thinned by one draw of all its dropout masks, at the rates it was trained with. The draw is
    the same for every image and every question about it, so that a member is a network, which can be explained.
    """

    requires = WEIGHTS

    about = "draws of dropout"
    name: Literal["mc_dropout"] = "mc_dropout"
    samples: int = Field(20, ge=2, description="Draws")

    def check(self, network: Network) -> None:
        if not any(isinstance(part, _DROPOUTS) and part.p > 0 for part in network.module.modules()):
            raise ConfigurationError(
                f"{self.title}: {type(network.module).__name__} has no dropout: use test_time_augmentation or "
                "deep_ensemble"
            )

    def members(self, network: Network) -> list[Member]:
        return [Member(thinned(network, sample)) for sample in range(self.samples)]


def thinned(network: Network, sample: int) -> Network:
    """Copy a network, with all weights shared; its dropout keeps what one draw keeps."""
    shared = {id(tensor): tensor for tensor in chain(network.module.parameters(), network.module.buffers())}
    other = copy(network)
    other.module = deepcopy(network.module, shared)
    other._heads = {}  # dropout may stand before the head
    for name, part in list(other.module.named_modules()):
        if isinstance(part, _DROPOUTS) and part.p > 0:
            parent, _, own = name.rpartition(".")
            setattr(other.module.get_submodule(parent), own, _Thinning(part, f"{name} {sample}"))
    return other


class _Thinning(nn.Module):
    """Dropout with a fixed mask, of places or of whole channels as in the module that it stands for."""

    def __init__(self, dropout: nn.Module, draw: str) -> None:
        super().__init__()
        self.rate, self.draw = float(dropout.p), draw  # type: ignore[arg-type]
        self.whole_channels = not isinstance(dropout, nn.Dropout)
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.shape[1:] not in self._masks:
            self._masks[inputs.shape[1:]] = self._drawn(inputs)
        return inputs * self._masks[inputs.shape[1:]]

    @torch.inference_mode(False)  # a mask that is made in that mode takes no part in a backward pass later
    def _drawn(self, inputs: Tensor) -> Tensor:
        channels, *space = inputs.shape[1:]
        shape = (channels, *[1 if self.whole_channels else side for side in space])
        (drawn,) = Draws("dropout", [self.draw], inputs.device).uniform(shape)
        scaled = (drawn >= self.rate) / (1 - self.rate) if self.rate < 1 else torch.zeros_like(drawn)
        return scaled.to(inputs.dtype)
