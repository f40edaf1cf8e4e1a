from math import inf
from typing import Literal

import torch
from pydantic import Field

from models.explainers.base import per_question
from models.explainers.noise import draw
from models.metrics.base import Exhibit, Score, StackMetric


class MaxSensitivity(StackMetric):
    """Max-sensitivity (Yeh et al. 2019, arXiv:1901.09392, definition 3.1), by samples.

    ``max_s ||R(x + e_s) - R(x)|| / ||R(x)||`` with ``e_s`` uniform in ``[-r, r]`` at each place and the Euclidean norm;
    relative as in Captum, since most maps have no unit. The target stays that of `x`, and an explainer's own noise is
    the same for every sample. At least 0; lower is better. NaN for a blank map, and where an explanation fails.
    """

    family = "robustness"
    better = "lower"
    range = (0.0, inf)
    name: Literal["max_sensitivity"] = "max_sensitivity"
    radius: float = Field(0.02, gt=0, description="Largest change of a pixel (r), as a share of the image's range")
    samples: int = Field(10, ge=1, description="Changed copies an image")

    def compare(self, exhibit: Exhibit) -> Score:
        engine, case = exhibit.engine, exhibit.case
        images = case.images
        flat = images.flatten(1)
        radius = per_question(self.radius * (flat.amax(1) - flat.amin(1)), images)
        maps = exhibit.maps.flatten(3).double()
        norm = maps.norm(dim=-1)
        largest = torch.zeros_like(norm)
        shape = images.shape[1:]
        each = torch.arange(len(images), device=images.device)
        for sample in range(self.samples):
            uniform = draw(
                case, each, torch.full_like(each, sample), lambda seeded: torch.rand(shape, generator=seeded), "uniform"
            )
            again = engine.case(images + radius * (2 * uniform - 1), case.ids, chosen=case.chosen)
            distance = (engine.maps(again).to(exhibit.maps).flatten(3).double() - maps).norm(dim=-1)
            largest = torch.maximum(largest, distance)
        return Score((largest / norm).where(norm > 0, torch.nan))
