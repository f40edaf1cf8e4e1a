from math import inf
from typing import Literal

import torch

from models.errors import ConfigurationError
from models.explainers.fill import Fill
from models.metrics.base import Evaluated, Evaluating, MapMetric, Values, ask_hidden
from models.network import Network


class CompletenessGap(MapMetric):
    """Completeness gap (axiom: Sundararajan et al. 2017, arXiv:1703.01365, section 3; sensitivity-n with all features).

    ``|sum(R) - (S(x) - S(x0))| / |S(x) - S(x0)|`` with `S` the target's logit and `x0` the image wholly hidden. At
    least 0; lower is better. 0 for a map that hands out the whole difference, 1 for a blank one. It is meaningful only
    for maps in the unit of the logit. NaN where hiding the image changes nothing.
    """

    family = "faithfulness"
    better = "lower"
    range = (0.0, inf)
    name: Literal["completeness_gap"] = "completeness_gap"
    fill: Fill = 0.0

    def check(self, network: Network) -> None:
        if network.fields:
            raise ConfigurationError(
                f"{self.title}: beside the map, the record has a part in the logit: leave it out; "
                "integrated_gradients, kernel_shap and shapley_sampling hand out to both together"
            )

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        hidden = yield from ask_hidden(evaluated, self.fill, "score")
        difference = evaluated.before.double() - hidden[:, 0]
        gap = (evaluated.maps.double().flatten(1).sum(1) - difference).abs() / difference.abs()
        return Values(gap.where(difference != 0, torch.nan))
