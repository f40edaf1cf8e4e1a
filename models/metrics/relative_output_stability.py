from typing import Literal

from torch import Tensor

from models.metrics.copies import Changes
from models.metrics.relative_stability import RelativeStability


class RelativeOutputStability(RelativeStability):
    """Relative output stability (Agarwal et al. 2022, arXiv:2203.06877).

    ``max_s ||(R(x) - R(x_s)) / R(x)|| / max(||h(x) - h(x_s)||, 1e-6)`` with the logits `h` of all classes; the rest is
    as in `relative_input_stability`. At least 0, per unit of the logits; lower is better. NaN for a blank map, where
    every copy is decided otherwise, and where an explanation fails.
    """

    name: Literal["relative_output_stability"] = "relative_output_stability"

    def change(self, found: Changes) -> Tensor:
        return found.logits
