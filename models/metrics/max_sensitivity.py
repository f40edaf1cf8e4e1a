from math import inf
from typing import Literal

import torch
from pydantic import Field

from models.explainers.noise import draw
from models.metrics.base import Explained, StackMetric, Values
from models.questions import per_question


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
        engine, batch = explained.engine, explained.batch
        images = batch.images
        flat = images.flatten(1)
        radius = per_question(self.radius * (flat.amax(1) - flat.amin(1)), images)
        maps = explained.maps.flatten(3).double()
        norm = maps.norm(dim=-1)
        largest = torch.zeros_like(norm)
        shape = images.shape[1:]
        together = max(engine.images_at_once // len(images), 1)  # copies that fill a batch, where images do not
        for first in range(0, self.samples, together):
            count = min(together, self.samples - first)
            image = torch.arange(len(images), device=images.device).repeat(count)
            sample = torch.arange(first, first + count, device=images.device).repeat_interleave(len(images))
            uniform = draw(batch, image, sample, lambda seeded: torch.rand(shape, generator=seeded), "uniform")
            copies = images[image] + radius[image] * (2 * uniform - 1)
            again = engine.batch(copies, batch.ids * count, chosen=batch.chosen.rows(image))
            anew = engine.maps(again).to(explained.maps).flatten(3).double().unflatten(0, (count, -1))
            largest = torch.maximum(largest, (anew - maps).norm(dim=-1).amax(0))
        return Values((largest / norm).where(norm > 0, torch.nan))
