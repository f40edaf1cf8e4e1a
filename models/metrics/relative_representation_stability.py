from typing import Literal

from pydantic import Field
from torch import Tensor

from models.capability import LAYERS
from models.errors import ConfigurationError
from models.metrics.copies import Changes
from models.metrics.relative_stability import RelativeStability
from models.network import Network


class RelativeRepresentationStability(RelativeStability):
    """Relative representation stability (Agarwal et al. 2022, arXiv:2203.06877).

    ``max_s ||(R(x) - R(x_s)) / R(x)|| / max(||(L(x) - L(x_s)) / L(x)||, 1e-6)`` with the output `L` of a layer; the
    rest is as in `relative_input_stability`. At least 0; lower is better. NaN for a blank map, where every copy is
    decided otherwise, and where an explanation fails.
    """

    requires = LAYERS

    name: Literal["relative_representation_stability"] = "relative_representation_stability"
    layer: str | None = Field(None, description="Layer by its dotted name; none: the last with a spatial extent")

    def check(self, network: Network) -> None:
        if not network.tiles.is_whole:
            raise ConfigurationError(
                f"{self.title}: asks about a layer of the whole image, and with model.windows each window has its own: "
                "use relative_input_stability or relative_output_stability"
            )
        try:
            network.layer(self.layer)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.title}: {error}") from None

    def layer_of(self, network: Network) -> str | None:
        return network.layer(self.layer)

    def change(self, found: Changes) -> Tensor:
        return found.layer
