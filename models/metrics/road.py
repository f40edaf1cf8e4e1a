from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.draws import Draws
from models.explainers.noise import range_of
from models.metrics.base import Evaluated, Evaluating, Points, Values, ask
from models.metrics.features import FeatureMetric
from models.metrics.imputation import impute
from models.network import Network
from models.outputs import Frame

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class _ROAD(FeatureMetric):
    """The mean probability of the target over the shares of the image that are removed and filled in."""

    patch: int = Field(1, ge=1, description="Side of the squares removed as one, in pixels; 1: pixel by pixel")
    noise: float = Field(0.01, ge=0, description="Standard deviation of what is added, as a share of the image's range")

    def curves(self, frame: Frame, network: Network) -> dict[str, Points]:
        return {"probability": _SHARES}

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        images = evaluated.batch.images
        sigma = self.noise * range_of(images)
        draws = Draws("road", evaluated.batch.ids, images.device)
        counts = (torch.tensor(_SHARES) * self.grid(evaluated).count).round().to(images.device)

        def make(image: Tensor, step: Tensor) -> Tensor:
            removed = self.strongest(evaluated, image, counts[step])
            rough = impute(images[image], removed) + sigma[image] * draws.gaussian(images.shape[1:], image, step)
            return images[image].where(~removed, rough)

        curve = yield from ask(evaluated, len(counts), make, (self.name, self.patch, self.noise), "probability")
        return Values(curve.mean(1), curves={"probability": curve}, points=_SHARES)


class ROADMoRF(_ROAD):
    """ROAD, the most relevant first (Rong et al. 2022, arXiv:2202.00449).

    ``mean_s P(x with the share s of its strongest features imputed)`` over ``s = 0.1, ..., 0.9``, with `P` the target's
    probability. Removed places are filled in by noisy linear imputation (`models.metrics.imputation`), so that their
    shape tells the network little. The published curve is of accuracy; probability is its counterpart for one image.
    In [0, 1]; lower is better.
    """

    family = "faithfulness"
    better = "lower"
    range = (0.0, 1.0)
    name: Literal["road_morf"] = "road_morf"


class ROADLeRF(_ROAD):
    """ROAD, the least relevant first (Rong et al. 2022, arXiv:2202.00449).

    As `ROADMoRF`, with the weakest features removed first. In [0, 1]; higher is better.
    """

    family = "faithfulness"
    better = "higher"
    range = (0.0, 1.0)
    name: Literal["road_lerf"] = "road_lerf"

    def strength(self, maps: Tensor) -> Tensor:
        return -maps
