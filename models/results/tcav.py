import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import t as student
from threadpoolctl import threadpool_limits

from models.explainers.pooled import feature_of, gradient_of
from models.outputs import Axis, Frame, Output, flags_of
from models.prediction import TARGET_CLASS
from models.results.base import Arrays, Result, Stored
from models.results.concepts import (
    FEWEST,
    ConceptImages,
    Directions,
    Drawn,
    Vectors,
    gradients_of_classes,
    tell_of_unscored_classes,
)
from models.results.directions import Classifier
from models.results.statistics import LEVEL, holm

logger = logging.getLogger(__name__)

Floats = NDArray[np.floating[Any]]


class ConceptFlag(IntFlag):
    """Why a label is reported as no concept."""

    TOO_FEW_IMAGES = 1
    TOO_FEW_OTHERS = 2
    AT_CHANCE = 4


A_CONCEPT = ConceptFlag(0)


@dataclass(frozen=True)
class Finding:
    """The numbers of one concept, by the endings of their names in the store; NaN where there are none.

    Attributes
    ----------
    score, random_score, p
        ``(class,)``.
    direction
        ``(feature,)``.
    """

    score: Floats
    random_score: Floats
    p: Floats
    direction: Floats
    accuracy: float = np.nan
    random_accuracy: float = np.nan
    flags: ConceptFlag = A_CONCEPT


class TCAV(Result):
    """Testing with concept activation vectors (Kim et al. 2018, arXiv:1711.11279).

    A concept is shown by the images whose label names it, alone or joined by ``|`` with other names. Its directions are
    the normals of classifiers of these against random other images on the pooled activations of a layer: logistic, or
    the difference of means (FastCAV, Schmalwasser et al. 2025, arXiv:2505.17883). ``score = |{x in X_c: grad S_c(x) v >
    0}| / |X_c|`` is the share of the images of a class whose explained scalar rises along ``v``, in [0, 1], mean over
    directions. ``X_c`` are the images of which the class was explained and whose label names it, or names no class and
    no concept. Random concepts are sets of other images, as large, and one direction each.

    ``p`` is two-sided, of the score as one more among those of random concepts: ``t = (score - mean) / (s sqrt(1 + 1 /
    n))`` with ``n - 1`` degrees of freedom (Crawford and Howell 1998, doi:10.1076/clin.12.4.482.7241), corrected for
    the number of concepts and classes (Holm). It is not the t-test of the paper, which takes the directions of a
    concept as independent: they share its images, so that concepts which the target does not heed would be significant.

    The accuracy is the balanced one on subjects of whom a direction is not made. A label of fewer than 20 images, or
    whose accuracy 5 % of random concepts reach, is no concept and is not scored.
    """

    name: Literal["tcav"] = "tcav"
    concepts: tuple[str, ...] = Field(
        strict=False, min_length=1, description="Concepts: each is shown by the images whose label names it"
    )
    of: str = Field("pooled_activations", description="Explainer `pooled_activations`, by its label if it has one")
    classifier: Classifier = Field("logistic", description="How directions are found")
    directions: int = Field(30, ge=30, description="Directions of each concept, and random concepts")

    @property
    def names_in_labels(self) -> tuple[str, ...]:
        return self.concepts

    def reads(self) -> tuple[str, ...]:
        return (self.of, gradient_of(self.of), TARGET_CLASS)

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        of = f"{self.title}_concept"
        axis = Axis(name=of, labels=self.concepts, long_name="concept")
        by_class, attrs = (of, "class"), {"concepts": self.title, "of": self.of, "class_of": "label"}

        def declared(name: str, dims: tuple[str, ...], about: str, **more: Any) -> Output:
            name = f"{self.title}_{name}"
            return Output(name=name, dims=dims, kind="result", long_name=about, axes=(axis,), attrs=attrs, **more)

        return (
            declared("score", by_class, "share of the images of the class whose target rises along the concept"),
            declared("random_score", by_class, "share of the images of the class whose target rises, random concepts"),
            declared("p", by_class, "two-sided p of the score against random concepts, corrected by Holm"),
            declared("direction", (of, feature_of(self.of)), "unit vector along which there is more of the concept"),
            declared("accuracy", (of,), "balanced accuracy that tells the concept from others, on other subjects"),
            declared("random_accuracy", (of,), "balanced accuracy that tells random concepts from others, mean"),
            declared("flags", (of,), "why a label is no concept; bits that add up", dtype="uint8", fill=0,
                     flags=flags_of(ConceptFlag)),
        )  # fmt: skip

    def compute(self, stored: Stored) -> Arrays:
        images = ConceptImages(stored, self.concepts)
        lacking = {concept: _lacking(images, concept) for concept in self.concepts}
        sizes = {concept: images.size(concept) for concept, flag in lacking.items() if not flag}
        found = self._directions(stored, images, sizes)
        shares = rising(stored, self.of, images, found)
        nothing = self._nothing(stored)
        findings = [
            self._finding(found[concept], found[sizes[concept]], shares[concept], shares[sizes[concept]], nothing)
            if concept in sizes
            else replace(nothing, flags=flag)
            for concept, flag in lacking.items()
        ]
        self._tell(findings, [shares[size] for size in set(sizes.values())])
        arrays = {name: np.array([getattr(one, name) for one in findings]) for name in vars(nothing)}
        tell_of_unscored_classes(self.title, stored.frame, arrays["score"])
        arrays["p"] = holm(arrays["p"].ravel()).reshape(arrays["p"].shape)
        return {
            f"{self.title}_{name}": values.astype(np.uint8 if name == "flags" else np.float32)
            for name, values in arrays.items()
        }

    def _directions(
        self, stored: Stored, images: ConceptImages, sizes: Mapping[str, int]
    ) -> dict[str | int, Directions]:
        """Find the directions of each concept by its name, and of random concepts by the size of their sets."""
        drawn: dict[str | int, Drawn] = {
            concept: images.draw(concept, size, self.directions) for concept, size in sizes.items()
        }
        drawn |= {size: images.draw(None, size, self.directions) for size in sorted({*sizes.values()})}
        if not drawn:
            return {}
        vectors = Vectors(stored, self.of, [rows for one in drawn.values() for rows in (one.ours, one.others)])
        with threadpool_limits(1):  # threads wait for one another longer than such small products take
            return {key: images.fit(one, vectors, self.classifier) for key, one in drawn.items()}

    def _nothing(self, stored: Stored) -> Finding:
        features = next(iter(stored.blocks(self.of)))[1][self.of].shape[1]
        no_score = np.full(len(stored.frame.classes), np.nan)
        return Finding(no_score, no_score, no_score, np.full(features, np.nan))

    def _finding(
        self, own: Directions, random: Directions, shares: Floats, random_shares: Floats, nothing: Finding
    ) -> Finding:
        """Test a concept against random ones, by accuracies ``(direction,)`` and shares ``(direction, class)``."""
        accuracy = own.accuracy.mean()
        told = replace(nothing, accuracy=accuracy, random_accuracy=random.accuracy.mean())
        reached = (1 + (random.accuracy >= accuracy).sum()) / (1 + self.directions)
        if reached > LEVEL:
            return replace(told, flags=ConceptFlag.AT_CHANCE)
        mean = own.vectors.mean(0, dtype=np.float64)
        return replace(
            told,
            score=shares.mean(0),
            random_score=random_shares.mean(0),
            p=np.array([_differ(*scores) for scores in zip(shares.mean(0), random_shares.T, strict=True)]),
            direction=mean / np.linalg.norm(mean),
        )

    def _tell(self, findings: Sequence[Finding], random: Sequence[Floats]) -> None:
        """Log which labels are no concepts, and whether random concepts leave room for any to be significant."""
        for concept, finding in zip(self.concepts, findings, strict=True):
            if finding.flags:
                why = str(finding.flags.name).lower().replace("_", " ")
                logger.warning("%s: %r is no concept and is not scored: %s", self.title, concept, why)
        if random and np.isin(np.nan_to_num(np.concatenate(random)), (0, 1)).all():
            logger.warning(
                "%s: all random concepts score 0 or 1, since the gradient is much the same for all images, so that no "
                "concept can be significant: name an earlier layer in %s",
                self.title,
                self.of,
            )


def _lacking(images: ConceptImages, concept: str) -> ConceptFlag:
    if len(images[concept]) < FEWEST:
        return ConceptFlag.TOO_FEW_IMAGES
    return ConceptFlag.TOO_FEW_OTHERS if images.size(concept) < FEWEST else A_CONCEPT


def rising(
    stored: Stored, of: str, images: ConceptImages, found: Mapping[str | int, Directions]
) -> dict[str | int, Floats]:
    """Compute the share of the images of each class whose target rises along directions, ``(direction, class)`` each.

    It is NaN where there is no image of the class.
    """
    if not found:
        return {}
    directions = np.concatenate([one.vectors for one in found.values()]).T
    classes = len(stored.frame.classes)
    rise, counted = np.zeros((directions.shape[1], classes), np.int64), np.zeros(classes, np.int64)
    for index, rows, gradients in gradients_of_classes(stored, of, images):
        rise[:, index] += (gradients @ directions > 0).sum(0)
        counted[index] += len(rows)
    shares = np.where(counted > 0, rise / np.maximum(counted, 1), np.nan)
    ends = np.cumsum([len(one.vectors) for one in found.values()])[:-1]
    return dict(zip(found, np.split(shares, ends), strict=True))


def _differ(score: float, random: Floats) -> float:
    """Compute the two-sided p of one score among random ones, ``(concept,)``; NaN where there is none."""
    spread = random.std(ddof=1) * np.sqrt(1 + 1 / len(random))
    if spread == 0:
        return float(score == random[0])
    return float(2 * student.sf(abs(score - random.mean()) / spread, len(random) - 1))
