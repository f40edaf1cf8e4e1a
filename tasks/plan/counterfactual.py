"""Counterfactuals: the one explainer that needs a file, its autoencoder."""

import hashlib
from typing import Annotated, Any, Self

from pydantic import Field

from models.autoencoders import Autoencoder, AutoencoderConfig, load_autoencoder
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS, Explainer
from models.explainers.counterfactual import Counterfactual as Search
from models.network import Network
from tasks.storage.location import Location


class AutoencoderFile(AutoencoderConfig):
    """An autoencoder whose weights lie in a file."""

    weights: Location = Field(description="A .safetensors or .pt file with the state dict")

    def read(self) -> bytes:
        """Read the file.

        Raises
        ------
        ConfigurationError
            If it is not there, or is not the expected one.
        """
        try:
            data = self.weights.read()
        except (FileNotFoundError, IsADirectoryError):
            raise ConfigurationError(f"autoencoder.weights: there is no file {self.weights}") from None
        digest = hashlib.sha256(data).hexdigest()
        if self.sha256 not in (None, digest):
            raise ConfigurationError(
                f"autoencoder.weights: {self.weights} has SHA-256 {digest}, but autoencoder.sha256 is {self.sha256}"
            )
        return data


class Counterfactual(Search):
    __doc__ = Search.__doc__

    autoencoder: AutoencoderFile = Field(description="The autoencoder in whose latent space is searched")

    @property
    def deciding(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"autoencoder": {"weights"}})

    def load(self, network: Network) -> Autoencoder:
        return load_autoencoder(self.autoencoder, self.autoencoder.read(), network)

    def pinned(self) -> Self:
        digest = hashlib.sha256(self.autoencoder.read()).hexdigest()
        return self.model_copy(update={"autoencoder": self.autoencoder.model_copy(update={"sha256": digest})})


EXPLAINERS.add(Counterfactual)

ExplainerConfig = Annotated[Explainer, EXPLAINERS]
