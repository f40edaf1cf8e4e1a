"""Inputs: an image, and perhaps the record beside it."""

import inspect
from collections.abc import Sequence

from torch import nn

from models.errors import ConfigurationError
from models.records import RecordField


def check_inputs(module: nn.Module, name: str, fields: Sequence[RecordField]) -> None:
    """Check, as far as the module's signature tells, that it takes a record if there is one, and none if not.

    Raises
    ------
    ConfigurationError
        If it does not, with the field of the configuration.
    """
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return
    takes_image, takes_both = (_takes(signature, count) for count in (1, 2))
    if fields and not takes_both:
        raise ConfigurationError(
            f"cohort.record: {name} takes an image alone: leave cohort.record out, or name a network that takes images "
            f"and records of shape (batch, {len(fields)})"
        )
    if not fields and takes_both and not takes_image:
        raise ConfigurationError(
            f"{name} takes a second input beside the image: if that is a record, name the columns of the cohort table "
            "that it is made of in cohort.record, in their order"
        )


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
