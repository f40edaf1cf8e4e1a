from typing import Literal

from models import forms
from models.errors import ConfigurationError
from models.folds import Folds
from models.network import Network
from models.uncertainty.base import Uncertainty
from models.uncertainty.members import Member


class FoldsApart(Uncertainty):
    """Spread between the folds of the model (as a deep ensemble: Lakshminarayanan et al. 2017, arXiv:1612.01474).

    The members are the folds of `model.weights`, each by itself, whose mean is what is explained.
    """

    about = "folds of the model"
    name: Literal["folds"] = "folds"

    def check(self, network: Network) -> None:
        self._folds(network)

    def members(self, network: Network) -> list[Member]:
        copies = map(forms.copied, self._folds(network).parts)  # a network lays the weights of its module out
        return [Member(Network(fold, network.config, network.device, network.precision)) for fold in copies]

    def _folds(self, network: Network) -> Folds:
        if not isinstance(network.module, Folds):
            raise ConfigurationError(
                f"{self.title}: model.weights is one file: list several, or use deep_ensemble, which names the others"
            )
        return network.module
