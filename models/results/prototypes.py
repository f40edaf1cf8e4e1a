import logging
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.errors import ConfigurationError
from models.outputs import Axis, Frame, Output
from models.prediction import LOGIT
from models.results.base import Arrays, Result, Stored
from models.results.critic import evenly, mmd_critic
from models.results.nearest import stored_directions

logger = logging.getLogger(__name__)

_CANDIDATES = 5000
_BY_PREDICTION = {"class_of": "prediction"}


class Prototypes(Result):
    """Cases that stand for a class, and criticisms: cases for which these stand too little, or too much.

    MMD-critic (Kim, Khanna and Koyejo 2016, Examples are not enough, learn to criticize!, NeurIPS; equation 5 and
    algorithm 1) on embeddings of unit length, with the kernel ``exp(-|x - y|^2 / (2 m))``, where ``m`` is the median of
    ``|x - y|^2`` in the class. The images of a class are those that the network predicts to be of it, whatever their
    label: with softmax the class of the greatest logit, with sigmoid each class whose logit is above 0. No two cases of
    a class are of one subject; an image that was not explained, was withdrawn, or whose vector is zero or not finite,
    is left out. Of more than 5,000 images of a class, as many are candidates, chosen evenly. The share of a prototype,
    in [0, 1], is the part of all images of the class to which it is the nearest prototype by cosine. The witness of a
    criticism, in [-1, 1], is above 0 where images are denser than prototypes, such as far from every prototype, and
    below 0 where prototypes are denser.
    """

    name: Literal["prototypes"] = "prototypes"
    prototypes: int = Field(5, ge=1, le=100, description="Number of prototypes of each class")
    criticisms: int = Field(5, ge=1, le=100, description="Number of criticisms of each class")
    of: str = Field("embedding", description="Vector by which images are compared")

    @property
    def prefix(self) -> str:
        return self.label or "prototype"

    def reads(self) -> tuple[str, ...]:
        return (self.of, LOGIT)

    def check(self, outputs: Mapping[str, Output]) -> None:
        super().check(outputs)
        if (kind := outputs[self.of].kind) != "vector":
            raise ConfigurationError(
                f"results: {self.title} compares vectors, but {self.of} is of the kind {kind!r}: set `of` to the name "
                "of an embedding"
            )

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        if frame.activation == "identity":
            raise ConfigurationError(
                f"results: {self.title} finds prototypes of classes, but the network is a regression, which predicts "
                "none: leave the result out"
            )
        standing = _ranks(f"{self.prefix}_rank", self.prototypes)
        against = _ranks(f"{self.prefix}_criticism_rank", self.criticisms)
        return (
            self._rows("image", "row of an image that stands for the class", standing),
            Output(name=f"{self.prefix}_share", dims=("class", standing.name), kind="result", axes=(standing,),
                   long_name="share of the images of the class to which the prototype is the nearest",
                   attrs=_BY_PREDICTION),
            self._rows("criticism", "row of an image for which the prototypes stand too little or too much", against),
            Output(name=f"{self.prefix}_witness", dims=("class", against.name), kind="result", axes=(against,),
                   long_name="density of images less that of prototypes at the criticism", attrs=_BY_PREDICTION),
        )  # fmt: skip

    def _rows(self, name: str, about: str, axis: Axis) -> Output:
        return Output(
            name=f"{self.prefix}_{name}",
            dims=("class", axis.name),
            kind="result",
            long_name=f"{about}; -1 where there is none",
            dtype="int32",
            fill=-1,
            axes=(axis,),
            attrs={"prototypes": self.title, "by": self.of, **_BY_PREDICTION},
        )

    def compute(self, stored: Stored) -> Arrays:
        unit = stored_directions(stored, self.of)
        of_class: NDArray[np.bool_] = _predicted(stored) & np.isfinite(unit).all(1, keepdims=True)
        classes = len(stored.frame.classes)
        standing = np.full((classes, self.prototypes), -1, np.int32)
        share = np.full(standing.shape, np.nan, np.float32)
        against = np.full((classes, self.criticisms), -1, np.int32)
        witness = np.full(against.shape, np.nan, np.float32)
        for index, name in enumerate(stored.frame.classes):
            images = np.flatnonzero(of_class[:, index])
            if len(images):
                candidates = images[evenly(len(images), _CANDIDATES)]
                subjects = [stored.subjects[row] for row in candidates]
                first, then, of_then = mmd_critic(unit[candidates], subjects, self.prototypes, self.criticisms)
                standing[index, : len(first)], against[index, : len(then)] = candidates[first], candidates[then]
                witness[index, : len(then)] = of_then
                share[index, : len(first)] = _shares(unit[images], unit[candidates[first]])
            self._tell_of_lacking(name, len(images), (standing[index] >= 0).sum(), (against[index] >= 0).sum())
        return {
            f"{self.prefix}_image": standing,
            f"{self.prefix}_share": share,
            f"{self.prefix}_criticism": against,
            f"{self.prefix}_witness": witness,
        }

    def _tell_of_lacking(self, name: str, images: int, prototypes: int, criticisms: int) -> None:
        if prototypes < self.prototypes or criticisms < self.criticisms:
            logger.warning(
                "result %s: class %r has %d of %d prototypes and %d of %d criticisms, since only %d images with an "
                "embedding are predicted to be of it, and no two cases are of one subject: -1 stands for those",
                self.title, name, prototypes, self.prototypes, criticisms, self.criticisms, images,
            )  # fmt: skip


def _ranks(name: str, count: int) -> Axis:
    labels = tuple(float(rank) for rank in range(1, count + 1))
    return Axis(name=name, labels=labels, long_name="rank, in the order of choice")


def _predicted(stored: Stored) -> NDArray[np.bool_]:
    """Tell which images are predicted to be of which class, ``(image, class)``."""
    found = np.zeros((len(stored.ids), len(stored.frame.classes)), bool)
    for rows, block in stored.blocks(LOGIT):
        logits = block[LOGIT]
        if stored.frame.activation == "sigmoid":
            found[rows] = logits > 0
        else:
            found[rows] = logits.argmax(1)[:, None] == np.arange(logits.shape[1])
    return found


def _shares(unit: NDArray[np.float32], prototypes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the share of vectors ``(image, feature)`` that each prototype is the nearest to; of equals the first."""
    nearest = (unit.astype(np.float64) @ prototypes.T.astype(np.float64)).argmax(1)
    return np.bincount(nearest, minlength=len(prototypes)) / len(unit)
