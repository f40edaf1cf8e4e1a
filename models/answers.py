"""Answers: from what a module returns, whatever its form, to logits."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from models.errors import ConfigurationError

Meaning = Literal["logits", "probabilities"]
Activation = Literal["softmax", "sigmoid", "identity"]

_SUMS = 1e-3
"""The distance that the sum of an image's probabilities may lie from 1."""


def part_of(output: Any, field: str | int | None, name: str) -> Any:
    """Take the part of an output that counts.

    Parameters
    ----------
    field
        A key, an attribute of a dataclass or the number of a place; dots lead further in, as in ``out.1``. None: the
        output itself, or the first of a tuple or list.
    name
        The name of the module, for messages.

    Raises
    ------
    ConfigurationError
        If the output has no such part, or has named parts and no `field` is given; with the names.
    """
    if field is None:
        if isinstance(output, (tuple, list)):
            return output[0] if output else output
        if names := _parts(output):
            raise ConfigurationError(
                f"{name} returns a {type(output).__name__} of {', '.join(map(repr, names))} for one image: name the "
                "part that counts in model.output"
            )
        return output
    part = output
    for step in str(field).split("."):
        parts = _parts(part)
        if step not in parts:
            raise ConfigurationError(
                f"model.output is {field!r}, but {name} returns {described(output)}: there is no {step!r}"
                + (f", but {', '.join(map(repr, parts))}" if parts else "")
            )
        part = parts[step]
    return part


def described(output: Any) -> str:
    """Describe what is no tensor."""
    if output is None:
        return "nothing"
    names = [] if isinstance(output, (tuple, list)) else list(_parts(output))
    return f"a {type(output).__name__}" + (f" of {', '.join(map(repr, names))}" if names else "")


def _parts(output: Any) -> dict[str, Any]:
    return dict(_named(output))


def _named(output: Any) -> Iterator[tuple[str, Any]]:
    """Walk through the parts of an output, each by its name in a path."""
    if isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items())
    elif isinstance(output, (tuple, list)):
        yield from ((str(place), value) for place, value in enumerate(output))
        yield from ((key, getattr(output, key)) for key in getattr(output, "_fields", ()))
    elif is_dataclass(output):
        yield from ((one.name, getattr(output, one.name)) for one in fields(output))


def is_opposite(outputs: int, classes: int, activation: Activation) -> bool:
    """Tell whether one output with a sigmoid stands for two classes: its own, the second, and that of its absence."""
    return (outputs, classes, activation) == (1, 2, "sigmoid")


def logits_of(answers: Tensor, meaning: Meaning, activation: Activation, classes: int) -> Tensor:
    """Make logits of ``(image, output[, *space])``: one for each class.

    Probabilities are taken to their logarithm (softmax) or to their logit (sigmoid); a gradient of the logit is then
    that of the logarithm. A probability, and for the logit its complement, counts as at least the smallest normal
    number of its type, ``1.2e-38`` in single precision; where it is smaller, the gradient is 0. One output ``z`` with a
    sigmoid that stands for two classes becomes ``(-z, z)``, whose sigmoids are ``1 - p`` and ``p``.
    """
    if meaning == "probabilities":
        smallest = torch.finfo(answers.dtype).tiny
        chance = answers.clamp_min(smallest).log()
        answers = chance if activation == "softmax" else chance - (1 - answers).clamp_min(smallest).log()
    return torch.cat([-answers, answers], 1) if is_opposite(answers.shape[1], classes, activation) else answers


def check_probabilities(answers: Tensor, strong: Tensor, activation: Activation, name: str) -> None:
    """Check that answers ``(image, output[, *space])`` are probabilities, those to very bright images, too.

    Raises
    ------
    ConfigurationError
        If they are not, by `model.activation`.
    """
    for found in (answers, strong):
        if bool(((found < 0) | (found > 1 + _SUMS)).any()):
            raise ConfigurationError(
                f"model.outputs is probabilities, but {name} returns values from {float(found.amin()):.3g} to "
                f"{float(found.amax()):.3g}: set `model.outputs: logits`"
            )
    sums = answers.sum(1)
    if activation == "softmax" and bool(((sums - 1).abs() > _SUMS).any()):
        raise ConfigurationError(
            f"model.outputs is probabilities and model.activation is softmax, but the answers of {name} to an image "
            f"sum to between {float(sums.amin()):.3g} and {float(sums.amax()):.3g}: set `model.activation: sigmoid` if "
            "each class is judged by itself, or `model.outputs: logits`"
        )
