"""The meaning of a mask: which of its values mark the finding, by what is unambiguous or by a rule that is stated."""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from models.errors import ConfigurationError
from tasks.cohort.reading import Decoded, Unreadable

_EXACT = 2**24
"""Masks are read in single precision, which tells whole numbers apart below this one."""

_FEW = 6
"""A reason lists the values of a mask where there are no more than this."""


class MaskRule(BaseModel):
    """A rule that says which values of a mask mark the finding.

    Attributes
    ----------
    threshold
        Places of at least this value are marked.
    labels
        Places of one of these values are marked; in a picture with a palette, of one of these indices.
    channel
        The channel that is looked at, by name or by number from 0. Without another rule, it has to have two values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    threshold: FiniteFloat | None = None
    labels: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] | None = None
    channel: Literal["grey", "red", "green", "blue", "alpha"] | Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.threshold is not None and self.labels is not None:
            raise ConfigurationError("mask: threshold and labels are two rules: leave one of them out")
        if self == MaskRule.model_construct():
            raise ConfigurationError("mask: state one of threshold, labels and channel, or leave the mask's rule out")
        return self


def drawn(mask: Decoded, rule: MaskRule | None) -> NDArray[np.bool_]:
    """Find where a mask is drawn.

    Parameters
    ----------
    mask
        The mask as `tasks.cohort.readers.read_mask` reads it.
    rule
        What is stated of its values; None: only what is unambiguous is accepted, 0 and one other value.

    Returns
    -------
    ndarray
        ``(*space)`` bool.

    Raises
    ------
    Unreadable
        If the values can be understood in several ways, or the rule does not suit them.
    """
    if bad := int((~np.isfinite(mask.pixels)).sum()):
        raise Unreadable(f"its mask has {bad} values that are NaN or infinite: mend the file")
    values = _looked_at(mask, rule)
    if rule and rule.threshold is not None:
        return _above(values, rule.threshold)
    if rule and rule.labels is not None:
        if (np.rint(values) != values).any():
            raise Unreadable(f"its mask has {_shown(values)}, and cohort.mask.labels takes whole numbers: a label map")
        if np.abs(values).max() >= _EXACT or max(map(abs, rule.labels)) >= _EXACT:
            raise Unreadable(
                f"its mask or cohort.mask.labels has labels of {_EXACT} and above, which are not told apart when they "
                "are read: number the labels anew"
            )
        return np.isin(values, rule.labels)
    return _two_valued(values)


def _looked_at(mask: Decoded, rule: MaskRule | None) -> NDArray[np.float32]:
    """Choose the values that mark, ``(*space)``, of all channels."""
    channel = rule.channel if rule else None
    names = mask.names or tuple(map(str, range(len(mask.pixels))))
    if channel is not None:
        place = channel if isinstance(channel, int) else names.index(channel) if channel in names else len(names)
        if place >= len(names):
            raise Unreadable(f"its mask has no channel {channel!r} (cohort.mask.channel): it has {', '.join(names)}")
        return mask.pixels[place]
    if rule and rule.labels is not None and "index" in names:
        return mask.pixels[names.index("index")]
    if "alpha" in names:
        opacity = mask.pixels[names.index("alpha")]
        if (opacity != opacity.flat[0]).any():
            raise Unreadable(
                "its mask is transparent in places, so that the drawing may lie in colour or in alpha: say which by "
                f"cohort.mask: {{channel: alpha}}, or {{channel: {names[0]}}}"
            )
    colours = mask.pixels[[place for place, name in enumerate(names) if name not in ("alpha", "index")]]
    if (colours != colours[0]).any():
        raise Unreadable(
            f"its mask has {len(colours)} channels that differ: say which marks the finding by cohort.mask: "
            "{channel: red}, or by a number from 0"
            + ("; or which of its palette's indices, by {labels: [1]}" if "index" in names else "")
        )
    return colours[0]


def _above(values: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    marked: NDArray[np.bool_] = values >= threshold
    low, high = values.min(), values.max()
    has_two = ((values == low) | (values == high)).all()
    if high < threshold and low < high and (has_two or high <= 1):
        raise Unreadable(
            f"its mask has {_shown(values)}, all below cohort.mask.threshold ({threshold:g}): one rule has to suit "
            "the masks of the whole cohort"
        )
    return marked


def _two_valued(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    marked = values != 0
    other = values[marked]
    if other.size and (other != other[0]).any():
        raise Unreadable(
            f"its mask has {_shown(values)}, so that the finding can be any of several: say which by cohort.mask: "
            f"{{threshold: {_halfway(values):g}}} for a soft or a compressed mask, {{labels: [1]}} for a label map, "
            "or {channel: alpha} for a drawing in one channel"
        )
    if other.size == values.size:
        raise Unreadable(
            f"its mask is {other[0]:g} everywhere, so that it marks the whole image: leave such masks out, or say that "
            f"this is meant by cohort.mask: {{threshold: {other[0]:g}}}"
        )
    return marked


def _halfway(values: NDArray[np.float32]) -> float:
    low, high = float(values.min()), float(values.max())
    return 128 if (low, high) == (0, 255) else (low + high) / 2


def _shown(values: NDArray[np.float32]) -> str:
    found = np.unique(values)
    if len(found) <= _FEW:
        return f"the values {', '.join(f'{value:g}' for value in found)}"
    return f"{len(found)} values from {found[0]:g} to {found[-1]:g}"
