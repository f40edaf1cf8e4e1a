from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.looking import LookingExplainer, upsample
from models.network import Network
from models.questions import Seen


class Attention(LookingExplainer):
    """Mean of the network's attention coefficients over its scales (Schlemper et al. 2019, section 3).

    ``map = mean_s upsample(alpha_s)``, with a layer's channels averaged first. In [0, 1] for sigmoid gates. It
    is the same for every target: attention says what the network lets through, not for which class.
    """

    name: Literal["attention"] = "attention"
    layers: tuple[str, ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        description="Layers whose outputs are the coefficients; none: those the network declares",
    )

    def look(self, seen: Seen, network: Network) -> Tensor:
        scales = [upsample(seen.activations[name].mean(1), seen.inputs) for name in self.watched(network)]
        return torch.stack(scales).mean(0)

    def watched(self, network: Network) -> tuple[str, ...]:
        declared = self.layers or getattr(network.module, "attention_layers", ())
        if not declared:
            raise ConfigurationError(
                f"{type(network.module).__name__} declares no attention layers; "
                "name the layers whose outputs are attention coefficients in `layers`, or leave attention out"
            )
        return tuple(network.layer(name) for name in declared)
