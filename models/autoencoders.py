"""Autoencoders: networks beside the explained one, which take its images to a latent space and back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.components import Component, instantiate, locate
from models.errors import ConfigurationError
from models.loading import NAMESPACES
from models.network import Network
from models.network_config import Digest
from models.trial import check_function, exact_convolutions, told
from models.weights import load_into


class AutoencoderConfig(BaseModel):
    """The class of an autoencoder, and what tells its file of weights from others."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    network: Component = Field(
        description="The class and its arguments, `{_target_: monai.networks.nets.VarAutoEncoder, …}` or "
        "`AutoencoderKL`, or one with the methods `encode` and `decode`"
    )
    weights_key: str | None = Field(None, description="Where in a checkpoint the state dict lies")
    sha256: Digest | None = Field(None, description="Expected digest of the file of weights")


class Autoencoder:
    """A trained autoencoder of the images that a network takes; its parameters take no gradients.

    Parameters
    ----------
    module
        A module with the methods ``encode``, from images ``(image, channel, *space)`` to latent means
        ``(image, *latent)`` or a tuple that begins with them, and ``decode``, from these to images. Of MONAI's
        `VarAutoEncoder`, whose ``encode`` ends before its latent space, ``encode_forward`` and ``decode_forward`` are
        taken.
    network
        The network that takes the images.

    Raises
    ------
    ConfigurationError
        If it has no such methods, does not return images of the shape that it took, or is no function of an image.
    """

    def __init__(self, module: nn.Module, network: Network) -> None:
        self.name = type(module).__name__
        images = network.synthetic()
        module = module.eval().requires_grad_(False).to(images)
        self._encode, self._decode = _functions(module, self.name)
        with torch.no_grad(), exact_convolutions():
            with told(f"{self.name} does not take images of shape {tuple(images.shape[1:])} (autoencoder.network)"):
                found = self.decode(self.encode(images))
            if found.shape != images.shape:
                raise ConfigurationError(
                    f"{self.name} returns {tuple(found.shape[1:])} for an image of shape {tuple(images.shape[1:])}: "
                    "name an autoencoder of the images that the network takes (autoencoder.network)"
                )
            check_function(lambda images: self.decode(self.encode(images)).flatten(1), images, self.name)

    def encode(self, images: Tensor) -> Tensor:
        """Take ``(image, channel, *space)`` to the means of its latent distribution, ``(image, *latent)``."""
        means: Tensor = _first(self._encode(images))
        return means

    def decode(self, latent: Tensor) -> Tensor:
        """Take ``(image, *latent)`` to ``(image, channel, *space)``."""
        images: Tensor = self._decode(latent)
        return images

    def pull_back(self, latent: Tensor, gradient: Tensor) -> Tensor:
        """Take a gradient with respect to decoded images to that with respect to `latent`, ``(image, *latent)``."""
        with torch.enable_grad():
            latent = latent.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.decode(latent), latent, gradient)
        return found


def load_autoencoder(config: AutoencoderConfig, weights: bytes, network: Network) -> Autoencoder:
    """Build the autoencoder of `config` as its weights hold it, for the images that `network` takes.

    Raises
    ------
    ConfigurationError
        If the class is not allowed, or the weights do not fit it, or it does not fit the images.
    """
    field = "autoencoder.network"
    located = locate(config.network, NAMESPACES, nn.Module, field, "cohortlens.networks")
    module: nn.Module = instantiate(config.network, located, field)
    try:
        load_into(module, weights, config.weights_key)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("model.", "autoencoder.")) from error
    return Autoencoder(module, network)


def _functions(module: nn.Module, name: str) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]:
    own: Any = module
    if hasattr(module, "decode_forward"):
        return own.encode_forward, partial(own.decode_forward, use_sigmoid=own.use_sigmoid)
    if not callable(getattr(module, "encode", None)) or not callable(getattr(module, "decode", None)):
        raise ConfigurationError(
            f"{name} has no methods `encode` and `decode`: name an autoencoder (autoencoder.network), such as "
            "monai.networks.nets.VarAutoEncoder"
        )
    return own.encode, own.decode


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) else output
