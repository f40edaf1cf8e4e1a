from math import inf
from typing import Literal

import torch
from pydantic import Field

from models.metrics.base import Explained, StackMetric, Values
from models.metrics.copies import changes


class MaxSensitivity(StackMetric):
    """Max-sensitivity (Yeh et al. 2019, arXiv:1901.09392, definition 3.1), by samples.

    ``max_s ||R(x + e_s) - R(x)|| / ||R(x)||`` with ``e_s`` uniform in ``[-r, r]`` at each place and the Euclidean norm;
    relative as in Captum, since most maps have no unit. The target stays that of `x`, and an explainer's own noise is
    the same for every sample. At least 0; lower is better. NaN for a blank map, and where an explanation fails.
    """

    family = "robustness"
    better = "lower"
    only_named = True
    range = (0.0, inf)
    name: Literal["max_sensitivity"] = "max_sensitivity"
    radius: float = Field(0.02, gt=0, description="Largest change of a pixel (r), as a share of the image's range")
    samples: int = Field(10, ge=1, description="Changed copies an image")

    def compare(self, explained: Explained) -> Values:
        largest = changes(explained, self.radius, self.samples).maps.amax(0)
        norm = explained.maps.flatten(3).double().norm(dim=-1)
        return Values((largest / norm).where(norm > 0, torch.nan))
