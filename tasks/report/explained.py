"""The explained images of an output, as the sections of the report take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.explainers.base import MAPS
from models.labels import without_concepts
from models.prediction import PROBABILITY
from tasks.cohort.entry import Entry
from tasks.plan.labels import Labels, read_labels
from tasks.plan.plan import Plan
from tasks.plan.predictions import Predictions, held_against
from tasks.report.performance import Performance, performance
from tasks.store.template import EXPLAINED


@dataclass(frozen=True)
class ExplainedImages:
    """The explained images of an output, held against their labels.

    Attributes
    ----------
    rows
        ``(image,)``, the row of each in the store.
    subjects
        Whose image each is.
    performance
        How right the model is; None where it predicts numbers, or no label names a class.
    """

    plan: Plan
    rows: NDArray[np.intp]
    dataset: xr.Dataset
    subjects: Sequence[str]
    labels: Labels
    predictions: Predictions
    performance: Performance | None

    @classmethod
    def of(cls, plan: Plan, entries: Sequence[Entry], stored: xr.Dataset) -> Self:
        rows = np.flatnonzero(stored["status"].values == EXPLAINED)
        dataset = stored.isel(image_id=rows)
        subjects = [entries[row].subject or entries[row].id for row in rows.tolist()]
        classes, exclusive = plan.model.classes, plan.model.activation == "softmax"
        spelt = without_concepts(map(str, dataset["label"].values), plan.concepts)
        labels = read_labels(spelt, classes, exclusive)
        probability = dataset[PROBABILITY].values if PROBABILITY in dataset else None
        predictions = held_against(labels, probability, plan.model.activation)
        right = None if probability is None else performance(probability, spelt, subjects, classes, exclusive)
        return cls(plan, rows, dataset, subjects, labels, predictions, right)

    @property
    def exclusive(self) -> bool:
        """True where classes exclude each other."""
        return self.plan.model.activation == "softmax"

    @property
    def called(self) -> NDArray[np.bool_] | None:
        """``(image, class)``, whether the model says so; None where it predicts numbers."""
        return self.predictions.called if PROBABILITY in self.dataset else None

    @property
    def has_maps(self) -> bool:
        return MAPS in self.dataset and bool(len(self.rows))
