from collections.abc import Generator
from typing import Literal

from models.explainers.base import Explainer
from models.network import Network
from models.outputs import Computed, Frame, Output
from models.questions import Batch, Questions


class Prediction(Explainer):
    """The prediction without a map. It is always computed; named alone, it makes a run of inference only."""

    name: Literal["prediction"] = "prediction"

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        return ()

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        yield from ()
        return {}
