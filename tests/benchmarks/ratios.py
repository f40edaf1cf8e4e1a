"""The results of a benchmark: ratios to a peer, a bare pass or a goal, and the error that more questions leave."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

FALL = 0.15
"""Share of its recorded value that a ratio may lose."""

_ERROR_GROWS = 2.0
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Ratio:
    """One line of the table.

    Attributes
    ----------
    name
        Both sides of the ratio, such as "occlusion, 2-D / bare forward". No two lines have the same.
    goal
        The value that is aimed at; None where there is none.
    error
        Relative L2 between the answers of both sides, or to a reference, as the note says; None where nothing is
        compared.
    """

    name: str
    ratio: float
    goal: float | None
    error: float | None = None
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    @property
    def reaches_goal(self) -> bool:
        return self.goal is None or (self.ratio >= self.goal if self.better == "higher" else self.ratio <= self.goal)

    def fall(self, recorded: "Ratio") -> str:
        """Say how this line falls short of the recorded one; empty where it does not."""
        lost = 1 - (self.ratio / recorded.ratio if self.better == "higher" else recorded.ratio / self.ratio)
        if lost > FALL:
            return f"{self.name}: {self.ratio:.2f}, and {recorded.ratio:.2f} was recorded"
        if self.error is not None and recorded.error is not None:
            most = max(_ERROR_GROWS * recorded.error, _ROUNDING)
            if not self.error <= most:
                return f"{self.name}: at an error of {self.error:.1e}, and {recorded.error:.1e} was recorded"
        return ""


@dataclass(frozen=True)
class Curve:
    """The error that a method leaves, over the questions that it asks.

    Attributes
    ----------
    network
        Title of the panel: the network, and what is explained by.
    method
        Whose rule it is, such as "ours", "today's rule" or "Captum".
    questions
        Questions an image, ascending.
    error
        Median over images of the relative L2 to a reference of many questions.
    """

    network: str
    method: str
    questions: tuple[float, ...]
    error: tuple[float, ...]

    def questions_at(self, error: float) -> float:
        """Interpolate, in logarithms, the questions at which the method has an error; at the ends, those of the end."""
        order = np.argsort(self.error)
        log = np.interp(np.log(error), np.log(self.error)[order], np.log(self.questions)[order])
        return float(np.exp(log))


@dataclass(frozen=True)
class Measured:
    """Lines and curves of one module."""

    ratios: tuple[Ratio, ...] = ()
    curves: tuple[Curve, ...] = field(default=())
