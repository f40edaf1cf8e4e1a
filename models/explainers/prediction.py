from typing import ClassVar, Literal

from models.explainers.base import Explainer
from models.network import Network
from models.questions import Needs


class Prediction(Explainer):
    """The prediction without a map. It is always computed; named alone, it makes a run of inference only."""

    makes_map: ClassVar[bool] = False
    name: Literal["prediction"] = "prediction"

    def needs(self, network: Network) -> Needs:
        return Needs()
