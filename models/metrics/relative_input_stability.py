from typing import Literal

from torch import Tensor

from models.metrics.copies import Changes
from models.metrics.relative_stability import RelativeStability


class RelativeInputStability(RelativeStability):
    """Relative input stability (Agarwal et al. 2022, arXiv:2203.06877).

    ``max_s ||(R(x) - R(x_s)) / R(x)|| / max(||(x - x_s) / x||, 1e-6)`` over the copies ``x_s`` of `max_sensitivity`
    about which the network decides for the target as it does about `x`, with the Euclidean norm. Division is place by
    place; places where the divisor is 0, or less than a millionth of its largest magnitude, do not count. The target
    stays that of `x`. At least 0; lower is better. NaN for a blank map, where every copy is decided otherwise, and
    where an explanation fails.
    """

    name: Literal["relative_input_stability"] = "relative_input_stability"

    def change(self, found: Changes) -> Tensor:
        return found.images
