from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from models.metrics.base import Evaluated, Evaluating, Values
from models.metrics.removal import Removal


class EffectiveComplexity(Removal):
    """Effective complexity (Nguyen and Martinez 2020, arXiv:2007.07584).

    ``min {s : |P(x) - P(x with only the share s of its features that are strongest)| <= tolerance}`` with `P` the
    target's probability: the share of the image that alone makes the prediction. A feature's strength is the sum of the
    map's magnitude over it; the expectation over what the others could be is taken at one point, the fill. In [0, 1],
    in steps of one over `points`; lower is better.
    """

    family = "complexity"
    better = "lower"
    range = (0.0, 1.0)
    shows: ClassVar[bool] = True
    name: Literal["effective_complexity"] = "effective_complexity"
    tolerance: float = Field(0.1, gt=0, description="Change of the probability that does not count")

    def strength(self, maps: Tensor) -> Tensor:
        return maps.abs()

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        curve = yield from self.curve(evaluated)
        shares = self.shares(evaluated)
        near = (curve - curve[:, -1:]).abs() <= self.tolerance
        least = shares.to(curve.device)[near.int().argmax(1)]
        return Values(least, curves={"probability": curve}, points=tuple(shares.tolist()))
