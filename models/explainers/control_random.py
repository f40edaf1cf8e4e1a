from typing import Literal

from models.draws import Draws
from models.explainers.base import Explaining, MapExplainer
from models.questions import Batch


class ControlRandom(MapExplainer):
    """A map of standard normal noise: what a metric gives to a map that knows neither model nor image."""

    name: Literal["control_random"] = "control_random"

    def explain(self, batch: Batch) -> Explaining:
        yield from ()
        maps = Draws("control", batch.ids, batch.images.device).gaussian(batch.images.shape[2:])
        return maps.to(batch.images).expand(batch.zeros().shape)
