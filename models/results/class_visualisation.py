from typing import Literal

from pydantic import Field
from torch import Tensor

from models.errors import ConfigurationError
from models.network import Network
from models.outputs import Axis, Frame
from models.results.ascent import Score
from models.results.base import Stored
from models.results.visualisation import Visualisation


class ClassVisualisation(Visualisation):
    """Pictures that raise the logit of a class (Simonyan et al. 2014, arXiv:1312.6034), and measures along the ascent
    (Couteaux et al. 2019, doi:10.1007/978-3-030-33850-3_7).

    The score is the logit, its mean over space where the network segments, or the output of a regression. It is raised
    by gradient ascent in smooth pictures (Olah, Mordvintsev and Schubert 2017, doi:10.23915/distill.00007) within the
    range of the cohort's images, and never falls.
    """

    name: Literal["class_visualisation"] = "class_visualisation"
    classes: tuple[str, ...] | None = Field(None, strict=False, min_length=1, description="Classes; none: all")

    def aim(self, frame: Frame) -> tuple[str, tuple[Axis, ...]]:
        named = self.classes or frame.classes
        if unknown := [name for name in named if name not in frame.classes]:
            raise ConfigurationError(
                f"results: {self.title} names {unknown}, but model.classes are {list(frame.classes)}"
            )
        axis = self.axis("class", named, "class that is raised")
        return axis.name, (axis,)

    def scores(self, stored: Stored) -> list[Score | None]:
        classes = stored.frame.classes
        return [_logit(stored.network, classes.index(name)) for name in self.classes or classes]


def _logit(network: Network, index: int) -> Score:
    def score(picture: Tensor) -> Tensor:
        return network(picture)[:, index].mean()

    return score
