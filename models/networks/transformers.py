"""Networks of Hugging Face's transformers that classify images."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.errors import ConfigurationError


class Transformers(nn.Module):
    """A network of transformers, as `AutoModelForImageClassification` makes one of a configuration alone.

    The class stands for the network itself, so that its state dict and the names of its layers are those of
    transformers. Nothing is fetched, and no code but that of the installed package is run.

    Parameters
    ----------
    model_type
        The kind of network, such as ``vit``, ``dinov2``, ``swin`` or ``convnext``.
    config
        Fields of its configuration, such as `image_size`, `num_channels` and `num_labels`; with 0 labels, the network
        returns the features that its classifier would take, ``(batch, feature)``.

    Notes
    -----
    Input ``(batch, num_channels, y, x)``, output logits ``(batch, num_labels)``.

    Raises
    ------
    ConfigurationError
        If transformers is missing, or has no such network.
    """

    def __new__(cls, model_type: str, **config: Any) -> Any:
        try:
            from transformers import AutoConfig, AutoModelForImageClassification
        except ImportError as error:
            raise ConfigurationError(
                "model.network: it needs transformers: install it by `pip install cohortlens[transformers]`, here and "
                "where workers run"
            ) from error
        _check(config)
        try:
            found = AutoConfig.for_model(model_type, **config)
            # Attention that is written out has layers and functions that can be watched.
            network = AutoModelForImageClassification.from_config(
                found, attn_implementation="eager", trust_remote_code=False
            )
        except ValueError as error:
            said = next(iter(str(error).splitlines()), "")
            raise ConfigurationError(
                f"there is no image classifier {model_type!r} of this configuration: {said:.200}"
            ) from error
        network.register_forward_hook(_logits)
        network.register_load_state_dict_pre_hook(_rename)
        return network


def _logits(network: nn.Module, inputs: Any, output: Any) -> Tensor:
    logits: Tensor = output.logits
    return logits


def _rename(network: Any, state: dict[str, Tensor], *_: Any) -> None:
    """Give the tensors of a file of `save_pretrained`, of earlier versions or of the backbone alone, the own names."""
    from transformers.core_model_loading import revert_weight_conversion

    own, begin = network.state_dict(), f"{network.base_model_prefix}."
    if not any(name.startswith(begin) for name in state):  # of the backbone alone, whose pooler classifiers do not have
        for name in list(state):
            tensor = state.pop(name)
            if f"{begin}{name}" in own or not name.startswith("pooler."):
                state[f"{begin}{name}"] = tensor
    names = {tensor.data_ptr(): name for name, tensor in own.items()}
    for stored, tensor in revert_weight_conversion(network, dict(own)).items():
        known = names.get(tensor.data_ptr())
        if known and known not in state and stored in state:
            state[known] = state.pop(stored)


def _check(config: Mapping[str, Any]) -> None:
    """Refuse, at any depth, what makes transformers fetch weights or code."""
    for name, value in config.items():
        if value and ("pretrained" in name or name in _FETCHING):
            raise ConfigurationError(f"{name}: {value!r} is not allowed: it fetches weights or code; leave it out")
        if isinstance(value, Mapping):
            _check(value)


_FETCHING = ("auto_map", "backbone", "attn_implementation", "use_kernels", "quantization_config")
