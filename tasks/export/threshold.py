"""The rule by which a map marks a region: where it is strongest."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError

STANDARD = "5%"


@dataclass(frozen=True)
class Threshold:
    """The rule by which a map marks a region: the strongest `number` percent of all places, or `number` and above.

    What counts of a signed map is its positive part, as against a mask. Places with equal values are marked together.
    """

    number: float
    is_share: bool

    @classmethod
    def of(cls, words: str) -> Self:
        """Read a rule such as ``5%`` or ``0.25``.

        Raises
        ------
        ConfigurationError
            If it is no such rule.
        """
        is_share = words.endswith("%")
        try:
            number = float(words.removesuffix("%"))
        except ValueError:
            number = np.nan
        if not (0 < number <= 100 if is_share else 0 < number < np.inf):
            raise ConfigurationError(
                f"--threshold {words!r} is neither a share of the places, such as 5%, nor a value above 0, such as 0.25"
            )
        return cls(number, is_share)

    def __str__(self) -> str:
        return f"strongest {self.number:g} %" if self.is_share else f"{self.number:g} and above"

    def marks(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Mark places of a map of any shape."""
        if not self.is_share:
            return values >= self.number
        count = max(1, round(values.size * self.number / 100))
        weakest = np.partition(values, values.size - count, axis=None)[values.size - count]
        return (values >= weakest) & (values > 0)
