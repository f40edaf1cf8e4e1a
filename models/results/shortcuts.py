import logging
from enum import IntFlag
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.labels import named, without_concepts
from models.outputs import COVARIATE, IMAGE_ID, Axis, Frame, Output, flags_of
from models.prediction import LOGIT
from models.results.base import Arrays, Stored
from models.results.clusters import NOWHERE, clusters, mean_cosine
from models.results.comparison import Comparison, places
from models.results.label_tests import Votes
from models.results.nearest import directions
from models.results.statistics import LEVEL, holm

logger = logging.getLogger(__name__)

ALIKE, ONE_PLACE = 0.5, 0.9

Floats = NDArray[np.floating[Any]]
Clusters = NDArray[np.int32]


class ShortcutFlag(IntFlag):
    """A reason to look at a cluster; the first two with one of the others are a hint of a shortcut."""

    ALIKE = 1
    ONE_PLACE = 2
    LABELS_DIFFER = 4
    COVARIATES_DIFFER = 8


_AT_A_PLACE = ShortcutFlag.ALIKE | ShortcutFlag.ONE_PLACE


def hints(flags: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which clusters hint at a shortcut, by their flags ``(cluster,)``."""
    differ = flags & (ShortcutFlag.LABELS_DIFFER | ShortcutFlag.COVARIATES_DIFFER) > 0
    return np.asarray((flags & _AT_A_PLACE == _AT_A_PLACE) & differ)


class Shortcuts(Comparison):
    """Clusters of images that are explained alike, those first whose labels or covariates differ (SpRAy).

    A variant of spectral relevance analysis (Lapuschkin et al. 2019, doi:10.1038/s41467-019-08987-4): the maps of one
    explainer for the first target, averaged to at most 16 places a side, or embeddings, are scaled to unit length and
    grouped by Ward's criterion into a given number of clusters; the paper has spectral clustering on a graph of
    neighbours, and reads the number from gaps of eigenvalues. Clusters do not depend on the order of images.

    The difference of labels is the total variation between the labels in a cluster and outside, in [0, 1]; each subject
    has one vote, and labels are compared as they are spelt. ``p`` is the least of Fisher's exact tests of each label,
    times their number. The words of each covariate are compared in the same way; all p are corrected together (Holm).
    The alikeness is the mean cosine between images of different subjects, of directions from which the mean over the
    images outside was subtracted, in [-1, 1]. The concentration is the share of images whose strongest place is next
    to, or is, the one at which the cluster exceeds the others most.

    A hint is a cluster of alikeness from 0.5 and concentration from 0.9 with a ``p < 0.05``: a marker is at the same
    place in each image, a finding seldom is. It is never proof, since an organ has its place as well; and a shortcut
    without a place, or one of few images, raises none. Embeddings have no places and raise none either.
    """

    name: Literal["shortcuts"] = "shortcuts"
    of: str = Field("attribution", description="Vector that is compared; `attribution`: the maps of `explainer`")
    clusters: int = Field(8, ge=2, le=64, description="Number of clusters at most")

    @property
    def prefix(self) -> str:
        return self.label or "shortcut"

    def reads(self) -> tuple[str, ...]:
        return (self.of, LOGIT)

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        dim = "cluster" if self.label is None else f"{self.label}_clusters"
        axis = Axis(name=dim, labels=self.clusters, long_name="cluster, first those that hint at a shortcut")
        attrs: dict[str, Any] = {"shortcuts": self.title, "by": self.by}

        def declared(name: str, about: str, *more: str, **fields: Any) -> Output:
            name, dims = f"{self.prefix}_{name}", (dim, *more)
            return Output(name=name, dims=dims, kind="result", long_name=about, axes=(axis,), attrs=attrs, **fields)

        outputs = [
            Output(name=f"{self.prefix}_cluster", dims=(IMAGE_ID,), kind="result", dtype="int32", fill=NOWHERE,
                   long_name=f"cluster by {self.by}; -1 where there is none", attrs=attrs),
            declared("share", "share of the images"),
            declared("label_difference", "total variation between labels in the cluster and outside"),
            declared("p", "p of the difference of labels, corrected by Holm"),
            declared("error", "share of wrong predictions among images with a known label"),
            declared("alikeness", "mean cosine between images of different subjects, without the mean of the others"),
            declared("flags", "reasons to look at the cluster; bits that add up", dtype="uint8", fill=0,
                     flags=flags_of(ShortcutFlag)),
        ]  # fmt: skip
        if frame.covariates:
            about = "total variation between covariates in the cluster and outside"
            outputs.append(declared("covariate_difference", about, COVARIATE))
            outputs.append(declared("covariate_p", "p of the difference of covariates, corrected by Holm", COVARIATE))
        if self.explainer is not None:
            outputs.append(declared("concentration", "share of images whose strongest place is that of the cluster"))
            about = "mean over images of maps, each divided by the mean of its magnitude"
            outputs.append(declared("map", about, *frame.space))
        return tuple(outputs)

    def compute(self, stored: Stored) -> Arrays:
        unit = self.directions(stored)
        of = clusters(unit, stored.ids, self.clusters)
        classed = stored.frame.activation != "identity"  # a regression's labels are no classes
        labels = np.array(stored.labels if classed else [""] * len(of), str)
        words = np.array([labels, *(stored.covariates[name] for name in stored.frame.covariates)], str)
        found = self._described(unit, of, words, np.array(stored.subjects, str), stored.frame)
        found["error"] = _means(_wrong(stored), of, self.clusters)
        least = np.fmin.reduce(np.column_stack([found["p"], found.get("covariate_p", found["p"])]), axis=1)
        order = np.lexsort([np.arange(self.clusters), -found["share"], least, ~hints(found["flags"])])
        found = {name: values[order] for name, values in found.items()}
        found["cluster"] = np.where(of >= 0, np.argsort(order)[of], NOWHERE).astype(np.int32)
        if self.explainer is not None:
            found["map"] = self._mean_maps(stored, found["cluster"])
        self._tell(found["flags"], is_compared=bool(np.isfinite(least).any()))
        return {
            f"{self.prefix}_{name}": values.astype(np.float32) if values.dtype == np.float64 else values
            for name, values in found.items()
        }

    def _described(
        self, unit: Floats, of: Clusters, words: NDArray[np.str_], subjects: NDArray[np.str_], frame: Frame
    ) -> Arrays:
        """Describe each cluster by numbers ``(cluster,)``; NaN where there are none.

        Parameters
        ----------
        words
            Labels and covariates, ``(1 + covariate, image)``.
        """
        there = of >= 0
        unit, of, words, subjects = unit[there], of[there], words[:, there], subjects[there]
        members = [of == one for one in range(int(of.max(initial=-1)) + 1)]
        differences, p = self._tested(of, words, subjects)
        found: Arrays = {
            "share": np.bincount(of, minlength=self.clusters) / max(len(of), 1),
            "label_difference": differences[:, 0],
            "p": p[:, 0],
            "alikeness": self._padded([_alikeness(unit, own, subjects) for own in members]),
        }
        flags = (found["alikeness"] >= ALIKE) * ShortcutFlag.ALIKE + (found["p"] < LEVEL) * ShortcutFlag.LABELS_DIFFER
        if frame.covariates:
            found |= {"covariate_difference": differences[:, 1:], "covariate_p": p[:, 1:]}
            flags += (found["covariate_p"] < LEVEL).any(1) * ShortcutFlag.COVARIATES_DIFFER
        if self.explainer is not None:
            found["concentration"] = self._padded([_at_one_place(np.abs(unit), own, places(frame)) for own in members])
            flags += (found["concentration"] >= ONE_PLACE) * ShortcutFlag.ONE_PLACE
        return found | {"flags": flags.astype(np.uint8)}

    def _tested(self, of: Clusters, words: NDArray[np.str_], subjects: NDArray[np.str_]) -> tuple[Floats, Floats]:
        """Compute how far words differ in clusters and its p, corrected together, both ``(cluster, 1 + covariate)``."""
        votes = [Votes.of(of, own, subjects) for own in words]
        differences = np.column_stack([self._padded(one.differences()) for one in votes])
        p = np.column_stack([self._padded(one.p()) for one in votes]).astype(np.float64)
        return differences, holm(p.ravel()).reshape(p.shape)

    def _padded(self, values: Any) -> Floats:
        padded = np.full(self.clusters, np.nan)
        padded[: len(values)] = values
        return padded

    def _mean_maps(self, stored: Stored, of: Clusters) -> Floats:
        """Average the maps of each cluster, ``(cluster, *space)``."""
        total = np.zeros((self.clusters, *stored.frame.grid))
        for rows, block in stored.blocks(self.of):
            for own, one in zip(self.own_maps(block[self.of], stored.frame), of[rows], strict=True):
                if one >= 0:
                    total[one] += own / np.abs(own).mean(dtype=np.float64)
        counts = np.bincount(of[of >= 0], minlength=self.clusters).astype(float)
        return total / np.where(counts > 0, counts, np.nan).reshape(-1, *[1] * len(stored.frame.grid))

    def _tell(self, flags: NDArray[np.uint8], *, is_compared: bool) -> None:
        if not is_compared:
            logger.warning(
                "result %s: no cluster can hint at a shortcut, since labels and covariates do not differ between "
                "subjects, or fewer than two subjects or clusters have any",
                self.title,
            )
        for cluster in np.flatnonzero(hints(flags)):
            differing = "labels" if flags[cluster] & ShortcutFlag.LABELS_DIFFER else "covariates"
            logger.warning(
                "result %s: the images of cluster %d are explained alike, at one place, and their %s differ from "
                "those of the others: look at its mean map for a shortcut",
                self.title, cluster, differing,
            )  # fmt: skip


def _alikeness(unit: Floats, own: NDArray[np.bool_], subjects: NDArray[np.str_]) -> float:
    """Compute how alike own images are in what tells them from the others; NaN where there are no others.

    The mean of the others is subtracted, since that of all images holds a part of what many of them share.
    """
    if own.all():
        return float("nan")
    return mean_cosine(np.nan_to_num(directions(unit[own] - unit[~own].mean(0))), subjects[own])


def _at_one_place(magnitudes: Floats, own: NDArray[np.bool_], sides: tuple[int, ...]) -> float:
    """Compute the share of maps ``(image, place)`` whose strongest place is next to that of the cluster."""
    if own.all():
        return float("nan")
    peak = np.array(np.unravel_index((magnitudes[own].mean(0) - magnitudes[~own].mean(0)).argmax(), sides))
    peaks = np.stack(np.unravel_index(magnitudes[own].argmax(1), sides), axis=1)
    return float((np.abs(peaks - peak).max(1) <= 1).mean())


def _wrong(stored: Stored) -> Floats:
    """Tell of each image whether its prediction is wrong, ``(image,)``; NaN where its label does not tell."""
    wrong = np.full(len(stored.ids), np.nan)
    if stored.frame.activation == "identity":
        return wrong
    classes, exclusive = np.array(stored.frame.classes), stored.frame.activation == "softmax"
    labels = without_concepts(stored.labels, stored.concepts)
    for rows, block in stored.blocks(LOGIT):
        for row, logits in zip(range(rows.start, rows.stop), block[LOGIT], strict=True):
            names = named(labels[row], stored.frame.classes, exclusive)
            if names is not None and np.isfinite(logits).all():
                wrong[row] = names != set(classes[[logits.argmax()] if exclusive else logits >= 0])
    return wrong


def _means(values: Floats, of: Clusters, number: int) -> Floats:
    """Average what is known over each cluster, ``(cluster,)``; NaN where nothing is."""
    known = np.isfinite(values) & (of >= 0)
    counts = np.bincount(of[known], minlength=number)
    return np.bincount(of[known], values[known], minlength=number) / np.where(counts > 0, counts, np.nan)
