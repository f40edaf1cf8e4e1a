"""Deep ensembles: the one kind of uncertainty whose members lie in files."""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field

from models.composed import Composed
from models.errors import ConfigurationError
from models.loading import build
from models.network import Network
from models.producer import Registry
from models.uncertainty import FoldsApart, MCDropout, Member, TestTimeAugmentation, Uncertainty
from tasks.storage.location import Location


class DeepEnsemble(Uncertainty):
    """Deep ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    The members are the explained network and others of the same architecture, trained from other seeds.
    """

    about = "networks of an ensemble"
    name: Literal["deep_ensemble"] = "deep_ensemble"
    weights: tuple[Location, ...] = Field(strict=False, min_length=1, description="Weights files of the other members")
    sha256: tuple[str, ...] = Field((), strict=False, description="Their expected digests")

    def check(self, network: Network) -> None:
        if isinstance(network.module, Composed):
            raise ConfigurationError(
                f"{self.title}: the network is {network.form}, and a member is one file: list all in model.weights and "
                "use the uncertainty `folds`, or name a network without a head"
            )

    def members(self, network: Network) -> list[Member]:
        """Read and build the other members.

        Raises
        ------
        ConfigurationError
            If a file does not fit the network, or is not the one that the plan names.
        """
        digests = self.sha256 or (None,) * len(self.weights)
        if len(digests) != len(self.weights):
            raise ConfigurationError(f"{self.title}: {len(self.weights)} weights, but {len(digests)} digests in sha256")
        others = []
        for weights, digest in zip(self.weights, digests, strict=True):
            try:
                data = weights.read()
            except FileNotFoundError:
                raise ConfigurationError(f"{self.title}: there is no file {weights}") from None
            config = network.config.model_copy(update={"sha256": digest})
            others.append(Member(build(config, data, network.device, network.precision, network.fields)))
        return [Member(network), *others]

    def pinned(self) -> Self:
        digests = tuple(hashlib.sha256(weights.read()).hexdigest() for weights in self.weights)
        return self.model_copy(update={"sha256": digests})


UNCERTAINTY: Registry[Uncertainty] = Registry(MCDropout, TestTimeAugmentation, DeepEnsemble, FoldsApart)

UncertaintyConfig = Annotated[Uncertainty, UNCERTAINTY]
