"""Loading a trained network: its class and state dict, or a file that holds both, checked before anything is made."""

import hashlib
import logging
from collections.abc import Sequence

import torch
from torch import nn

from models import forms
from models.bundles.archive import weights_within
from models.components import instantiate, locate
from models.errors import ConfigurationError
from models.network import Network, NetworkConfig, Precision
from models.records import RecordField
from models.weights import load_into

logger = logging.getLogger(__name__)

NAMESPACES = ("monai.networks.nets", "models.networks", "torch.nn", "torchvision.models")

_FIELD = "model.network"


def build(
    config: NetworkConfig,
    weights: bytes,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    fields: Sequence[RecordField] = (),
) -> Network:
    """Build the network of `config` and load `weights` (safetensors, or a ``.pt`` state dict) into it.

    Parameters
    ----------
    fields
        The fields of the record that it takes beside an image.

    Raises
    ------
    ConfigurationError
        If the digest differs, the weights cannot be read or do not fit the network.
    """
    return Network(load_module(config, weights), config, device, precision, fields)


def load_module(config: NetworkConfig, weights: bytes) -> nn.Module:
    """Build the module of `config` as it was trained, and load `weights` into it; `build` says what it raises."""
    digest = hashlib.sha256(weights).hexdigest()
    if config.sha256 not in (None, digest):
        raise ConfigurationError(f"the weights have SHA-256 {digest}, but model.sha256 is {config.sha256}")
    weights = weights_within(weights)
    if form := forms.recognise(weights):
        return _load_form(form, config, weights, digest)
    if config.network is None:
        raise ConfigurationError(
            "model.network: name the class of the network and its arguments, since the file in model.weights holds "
            "weights alone, or is damaged"
        )
    located = locate(config.network, NAMESPACES, nn.Module, _FIELD, "cohortlens.networks")
    module = instantiate(config.network, located, _FIELD)
    if taken := load_into(module, weights, config.weights_key):
        logger.info("of model.weights was taken: %s", taken)
    return module


def _load_form(form: forms.Form, config: NetworkConfig, weights: bytes, digest: str) -> nn.Module:
    if config.network is not None:
        raise ConfigurationError(
            f"model.network: leave it out: the file in model.weights ({form.title}) holds the network, too"
        )
    if form.is_code and config.sha256 is None:
        raise ConfigurationError(
            f"model.sha256: a {form.title} file is code of whoever made it: state its digest if you trust it, {digest}"
        )
    return form.load(weights)
