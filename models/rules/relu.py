"""Other backward rules of ReLU."""

import torch
from torch import Tensor

from models.errors import ConfigurationError
from models.network import Network
from models.relus import Relus, stopped
from models.trial import exact_convolutions


def guided(gradient: Tensor, output: Tensor) -> Tensor:
    """Stop negative gradients on the way backward, and those at places that ReLU stopped on the way forward."""
    return stopped(gradient.relu(), output)


def deconvolved(gradient: Tensor, output: Tensor) -> Tensor:
    """Stop negative gradients on the way backward, whatever ReLU did on the way forward."""
    return gradient.relu()


def require_relu(network: Network) -> None:
    """Check that the network has ReLUs.

    Raises
    ------
    ConfigurationError
        If it has none, so that another rule would only rename the plain gradient.
    """
    with torch.no_grad(), network.exact(), exact_convolutions(), Relus() as relus:
        network(network.synthetic())
    if not relus.seen:
        activations = sorted(
            {type(part).__name__ for part in network.module.modules() if "activation" in type(part).__module__}
        )
        raise ConfigurationError(
            f"{type(network.module).__name__} has no ReLU (its activations: {', '.join(activations)}); "
            "the rule would be the plain gradient. Use integrated_gradients or smoothgrad instead"
        )
