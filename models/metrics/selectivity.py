from math import inf
from typing import ClassVar, Literal

from pydantic import Field

from models.metrics.base import Of
from models.metrics.removal import Removal


class Selectivity(Removal):
    """Explanation selectivity (Montavon et al. 2018, doi:10.1016/j.dsp.2017.10.011).

    ``int_0^1 S(x without the share s of its features that are strongest) ds`` by trapezoids, with `S` the target's
    logit. A feature's strength is the sum of the signed map over it, which is not made anew on the way. In logits, so
    that maps of the same image can be compared; lower is better.
    """

    family = "faithfulness"
    better = "lower"
    range = (-inf, inf)
    of: ClassVar[Of] = "score"
    name: Literal["selectivity"] = "selectivity"
    patch: int = Field(4, ge=1, description="Side of the squares hidden as one, in pixels; 1: pixel by pixel")
