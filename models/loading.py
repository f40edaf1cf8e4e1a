"""Loading a trained network: its class and state dict, or a file that holds both, checked before anything is made."""

import hashlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from models import forms
from models.bundles.archive import weights_within
from models.components import instantiate, locate
from models.errors import ConfigurationError
from models.folds import Folds
from models.heads import HeadConfig, Headed, linear_probe, references
from models.network import Network, Precision
from models.network_config import NetworkConfig
from models.records import RecordField
from models.weights import load_into

logger = logging.getLogger(__name__)

NAMESPACES = ("monai.networks.nets", "models.networks", "torch.nn", "torchvision.models")

_FIELD = "model.network"


class Files(NamedTuple):
    """The files of a trained network, each as it is stored.

    Attributes
    ----------
    weights
        One file, or one a fold.
    head
        The linear layer or the references that follow the network; None: nothing follows.
    """

    weights: tuple[bytes, ...]
    head: bytes | None = None

    @property
    def digests(self) -> str | tuple[str, ...]:
        """SHA-256 of the weights: one, or one a fold."""
        found = tuple(hashlib.sha256(data).hexdigest() for data in self.weights)
        return found[0] if len(found) == 1 else found


def build(
    config: NetworkConfig,
    files: Files | bytes,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    fields: Sequence[RecordField] = (),
) -> Network:
    """Build the network of `config` as its files hold it; bytes alone are those of its weights.

    Parameters
    ----------
    fields
        The fields of the record that it takes beside an image.

    Raises
    ------
    ConfigurationError
        If a digest differs, a file cannot be read or does not fit the network.
    """
    return Network(load_module(config, files), config, device, precision, fields)


def load_module(config: NetworkConfig, files: Files | bytes) -> nn.Module:
    """Build the module of `config` as it was trained: of one file, of several folds, with what follows it, if anything.

    Raises
    ------
    ConfigurationError
        As `build` does.
    """
    files = Files((files,)) if isinstance(files, bytes) else files
    expected = config.sha256 if isinstance(config.sha256, tuple) else (config.sha256,) * len(files.weights)
    if len(expected) != len(files.weights) or (len(files.weights) > 1 and isinstance(config.sha256, str)):
        raise ConfigurationError(
            f"model.sha256: state one digest for each of {len(files.weights)} files of model.weights, in their order"
        )
    if len(files.weights) == 1:
        module = _load_file(config, files.weights[0], expected[0])
        return module if files.head is None else _headed(config, module, files.head)
    if files.head is not None:
        raise ConfigurationError(
            f"model.weights: {len(files.weights)} files are folds, and a head was fitted to one backbone: leave "
            "model.head and model.reference out, or name one file"
        )
    folds = []
    for number, (data, digest) in enumerate(zip(files.weights, expected, strict=True), 1):
        try:
            folds.append(_load_file(config, data, digest))
        except ConfigurationError as error:
            raise ConfigurationError(f"fold {number} of {len(files.weights)}: {error}") from error
    return Folds(folds, config.output, config.outputs, config.activation, config.combine)


def _headed(config: NetworkConfig, backbone: nn.Module, data: bytes) -> nn.Module:
    digest = hashlib.sha256(data).hexdigest()
    given = config.head or config.reference or HeadConfig()
    if given.sha256 not in (None, digest):
        raise ConfigurationError(
            f"the file of model.head or model.reference has SHA-256 {digest}, but its sha256 is {given.sha256}"
        )
    if config.reference is None:
        return Headed(backbone, linear_probe(data), config.output, given.pool)
    if config.activation != "identity" or config.outputs != "logits":
        raise ConfigurationError(
            f"model.reference: similarities are explained as they are, and model.activation is {config.activation}: "
            "set `activation: identity`, and leave `outputs` out"
        )
    return Headed(backbone, references(data, config.classes), config.output, given.pool)


def _load_file(config: NetworkConfig, weights: bytes, expected: str | None) -> nn.Module:
    digest = hashlib.sha256(weights).hexdigest()
    if expected not in (None, digest):
        raise ConfigurationError(f"the weights have SHA-256 {digest}, but model.sha256 is {expected}")
    weights = weights_within(weights)
    if form := forms.recognise(weights):
        return _load_form(form, config, weights, expected, digest)
    if config.network is None:
        raise ConfigurationError(
            "model.network: name the class of the network and its arguments, since the file in model.weights holds "
            "weights alone, or is damaged"
        )
    located = locate(config.network, NAMESPACES, nn.Module, _FIELD, "cohortlens.networks")
    module: nn.Module = instantiate(config.network, located, _FIELD)
    if taken := load_into(module, weights, config.weights_key):
        logger.info("of model.weights was taken: %s", taken)
    return module


def _load_form(form: forms.Form, config: NetworkConfig, weights: bytes, expected: str | None, digest: str) -> nn.Module:
    if config.network is not None:
        raise ConfigurationError(
            f"model.network: leave it out: the file in model.weights ({form.title}) holds the network, too"
        )
    if form.is_code and expected is None:
        raise ConfigurationError(
            f"model.sha256: a {form.title} file is code of whoever made it: state its digest if you trust it, {digest}"
        )
    return form.load(weights)
