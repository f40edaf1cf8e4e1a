"""Concepts: the images that show them, and what is drawn of these and of others."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.explainers.pooled import gradient_of
from models.labels import SEPARATOR
from models.outputs import Frame
from models.prediction import TARGET_CLASS
from models.results.base import Stored
from models.results.directions import Classifier, direction, held_out_accuracy

logger = logging.getLogger(__name__)

FEWEST, MOST = 20, 100
"""The number of images without which there is no concept, and of those that one direction is made of at most."""

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Drawn:
    """Rows of the store that directions are made of, ``(direction, image)``: the images told from others, and these."""

    ours: Rows
    others: Rows


@dataclass(frozen=True)
class Directions:
    """Unit vectors ``(direction, feature)``, and the accuracy of each on other subjects."""

    vectors: NDArray[np.float32]
    accuracy: NDArray[np.float64]


class LabelledImages:
    """The images of a cohort by the names in their labels.

    Parameters
    ----------
    concepts
        Names in labels that are no classes.

    Attributes
    ----------
    rows
        Rows of the explained images, in the order of their ids.
    subjects
        Whose each image is, ``(image,)``.
    """

    def __init__(self, stored: Stored, concepts: Sequence[str] = ()) -> None:
        self._concepts = concepts
        self._names = [set(label.split(SEPARATOR)) for label in stored.labels]
        self.subjects = np.array(stored.subjects)
        by_id = np.argsort(np.array(stored.ids), kind="stable")
        self.rows: Rows = by_id[stored.explained[by_id]]

    def of_classes(self, classes: Sequence[str]) -> NDArray[np.bool_]:
        """Tell which images stand for which class, ``(image, class)``: its label names it, or nothing known."""
        known = {*classes, *self._concepts}
        return np.array([[name in names or not names & known for name in classes] for names in self._names], bool)


class ConceptImages(LabelledImages):
    """The explained images that show concepts, and others; draws depend on their ids, not on their order.

    Attributes
    ----------
    others
        Rows of the images that show no concept.
    """

    def __init__(self, stored: Stored, concepts: Sequence[str]) -> None:
        super().__init__(stored, concepts)
        self._rows = {
            concept: np.array([row for row in self.rows if concept in self._names[row]], np.intp)
            for concept in concepts
        }
        self.others = np.array([row for row in self.rows if self._names[row].isdisjoint(concepts)], np.intp)

    def __getitem__(self, concept: str) -> Rows:
        return self._rows[concept]

    def size(self, concept: str) -> int:
        """Count the images that a direction is made of on either side: two sets of others can be drawn as well."""
        return min(len(self._rows[concept]), len(self.others) // 2, MOST)

    def draw(self, concept: str | None, size: int, directions: int) -> Drawn:
        """Draw images of a concept, or of a random one, which is a set of others; and for each direction other images.

        The images that a concept is told from are those which the random concepts of that size are told from.
        """
        ours, others = [], []
        for number in range(directions):
            sets = np.random.default_rng([size, number]).choice(self.others, (2, size), replace=False)
            others.append(sets[0])
            if concept is not None:
                sets[1] = np.random.default_rng([size, number, 1]).choice(self._rows[concept], size, replace=False)
            ours.append(sets[1])
        return Drawn(np.array(ours), np.array(others))

    def fit(self, drawn: Drawn, vectors: "Vectors", classifier: Classifier) -> Directions:
        """Find the directions that tell the images drawn from others."""
        normals, accuracy = [], []
        for ours, others in zip(drawn.ours, drawn.others, strict=True):
            sides = vectors[ours], vectors[others]
            normals.append(direction(*sides, classifier)[0])
            subjects = self.subjects[ours], self.subjects[others]
            accuracy.append(held_out_accuracy(*sides, subjects, classifier))
        return Directions(np.array(normals, np.float32), np.array(accuracy))


class Vectors:
    """Some rows of a stored output ``(image, feature)``; each may be named several times.

    Attributes
    ----------
    features
        The number of features.
    """

    def __init__(self, stored: Stored, name: str, rows: Iterable[Rows]) -> None:
        self._rows = np.unique(np.concatenate([some.ravel() for some in rows]))
        parts = []
        for block_rows, block in stored.blocks(name):
            first, last = np.searchsorted(self._rows, [block_rows.start, block_rows.stop])
            parts.append(block[name][self._rows[first:last] - block_rows.start])
        self._values = np.concatenate(parts)
        self.features = self._values.shape[1]

    def __getitem__(self, rows: Rows) -> NDArray[np.floating[Any]]:
        return self._values[np.searchsorted(self._rows, rows)]


def gradients_of_classes(
    stored: Stored, of: str, images: LabelledImages
) -> Iterator[tuple[int, Rows, NDArray[np.floating[Any]]]]:
    """Yield the gradients of the target of images that stand for a class, and of which it was explained.

    Yields
    ------
    tuple
        Number of the class, rows of the images, and their gradients ``(image, feature)``; by shard and class.
    """
    classes = stored.frame.classes
    of_class = images.of_classes(classes)
    for rows, block in stored.blocks(gradient_of(of), TARGET_CLASS):
        for index in range(len(classes)):
            own = (block[TARGET_CLASS] == index) & of_class[rows, index, None]
            yield index, rows.start + own.nonzero()[0], block[gradient_of(of)][own]


def tell_of_unscored_classes(title: str, frame: Frame, scores: NDArray[np.floating[Any]]) -> None:
    """Log which classes have no score, ``(concept, class)``, though concepts have one, and the target may be any class.

    A target that names classes leaves out the others, which need no word.
    """
    asked = set(frame.targets) & {*frame.classes} or {*frame.classes}
    scored = np.isfinite(scores).any(0)
    for name in np.array(frame.classes)[~scored] if scored.any() else ():
        if name in asked:
            logger.warning(
                "%s: class %r has no score, since it was explained of no image of the class", title, str(name)
            )
