from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.draws import Draws
from models.engine import Engine
from models.explainers.noise import range_of
from models.metrics.base import Explained
from models.metrics.copies import asked_about
from models.metrics.randomisation import WeightRandomisation
from models.questions import Batch


class SmoothMPRT(WeightRandomisation):
    """Smooth model parameter randomisation test (Hedstrom et al. 2024, arXiv:2401.06465).

    ``SSIM(mean_i R(x + n_i), mean_i R_l(x + n_i))`` with Gaussian ``n_i``, which are the same for all networks, and
    ``R_l`` the map for the same target once the layers from the output down to `l` are random: cascading randomisation
    of maps whose noise is averaged away, with value, companions and curves as there. The published test goes from the
    input to the output; the value, which is that of the wholly random network, does not depend on the order. In
    [-1, 1]; lower is better. NaN where a mean map is constant or missing.
    """

    name: Literal["smooth_mprt"] = "smooth_mprt"
    samples: int = Field(10, ge=1, description="Noisy copies an image")
    noise_level: float = Field(0.1, ge=0, description="Standard deviation, as a share of the image's range")

    def maps(self, explained: Explained) -> Tensor:
        return self.explain(explained.engine, explained.batch).to(explained.maps)

    def explain(self, engine: Engine, batch: Batch) -> Tensor:
        return sum(self._sums(engine, batch), torch.zeros(())) / self.samples

    def _sums(self, engine: Engine, batch: Batch) -> Iterator[Tensor]:
        rows, *shape = batch.images.shape
        draws = Draws("smooth_mprt", batch.ids, batch.images.device)
        sigma = self.noise_level * range_of(batch.images)

        def noise(image: Tensor, sample: Tensor) -> Tensor:
            return sigma[image] * draws.gaussian(shape, image, sample)

        for copies in asked_about(engine, batch, self.samples, noise):
            yield engine.maps(copies).double().unflatten(0, (-1, rows)).sum(0)
