import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.errors import ConfigurationError
from models.outputs import IMAGE_ID, Axis, Frame, Output
from models.results.base import Arrays, Stored
from models.results.comparison import Comparison
from models.results.nearest import Found, Pairs, nearest
from models.results.retrieval import Cases, chance, precision

logger = logging.getLogger(__name__)

MANY = 10**6
"""Beyond as many images it is said how long the exact search takes."""

_SECONDS = 7e-11
"""The time that a core takes for a pair of images and a feature."""


class SimilarCases(Comparison):
    """The nearest cases of each image by cosine of embeddings, or of the maps of one explainer.

    An image of the same subject is never a neighbour, nor is one that was not explained, was withdrawn, or whose vector
    is zero or not finite; of equally near images, the one of the lower row comes first. Of candidates that an index
    proposes, neighbours may be missing. Maps are those for the first target, averaged to at most 16 places a side.
    Labels are compared as they are spelt. The precision at k, in [0, 1], is the share of the image's label among the
    labels of the first k neighbours (Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, section
    8.4; larger is better); neighbours drawn by chance would reach its share among the labels of all other subjects'
    images.
    """

    name: Literal["similar_cases"] = "similar_cases"
    neighbours: int = Field(5, ge=1, le=100, description="Number of neighbours of each image")
    search: Literal["exact", "candidates"] = Field(
        "exact",
        description="Whether images are compared with every other one, or with candidates of an index",
    )

    @property
    def prefix(self) -> str:
        return self.label or "similar"

    def check(self, outputs: Mapping[str, Output]) -> None:
        super().check(outputs)
        if self.search == "candidates" and find_spec("faiss") is None:
            raise ConfigurationError(
                f"results: {self.title} has `search: candidates`, which needs faiss: `pip install "
                "cohortlens[faiss]`, or leave `search` out"
            )

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        prefix, by = self.prefix, self.by
        axis = Axis(
            name="neighbour" if self.label is None else f"{self.label}_neighbour",
            labels=tuple(float(rank) for rank in range(1, self.neighbours + 1)),
            long_name="rank, the nearest first",
        )
        about = f"the nearest images of other subjects by {by}"
        outputs = [*_ranked(f"{prefix}_image", f"{prefix}_cosine", about, axis)]
        if frame.activation != "identity":  # a regression's labels are no classes
            for kind, relation in (("same", "the same"), ("other", "another")):
                name = f"{prefix}_{kind}_label"
                outputs += _ranked(name, f"{name}_cosine", f"the nearest image with {relation} label by {by}")
            outputs.append(
                _number(f"{prefix}_precision", "share of the image's label among the first neighbours", axis)
            )
            outputs.append(_number(f"{prefix}_chance", "share of the image's label among all images of other subjects"))
        attrs = {"similar": self.title, "by": by}
        return tuple(output.model_copy(update={"attrs": attrs}) for output in outputs)

    def compute(self, stored: Stored) -> Arrays:
        unit = self.directions(stored)
        among = np.flatnonzero(np.isfinite(unit).all(1)).astype(np.int32)
        cases = Cases.of(*(np.array(names, str)[among] for names in (stored.subjects, stored.labels)))
        asked: list[tuple[int, Pairs]] = [(self.neighbours, cases.are_of_others)]
        if stored.frame.activation != "identity":
            asked += [(1, cases.have_same_label), (1, cases.have_other_label)]
        (near, cosines), *by_label = self._search(unit[among], cases, asked)
        self._tell_of_lacking(near)
        found: Arrays = {f"{self.prefix}_image": _rows(near, among), f"{self.prefix}_cosine": cosines}
        for kind, (rows, of_pairs) in zip(("same", "other"), by_label, strict=False):
            found[f"{self.prefix}_{kind}_label"] = _rows(rows[:, 0], among)
            found[f"{self.prefix}_{kind}_label_cosine"] = of_pairs[:, 0]
        if by_label:
            found |= {f"{self.prefix}_precision": precision(near, cases), f"{self.prefix}_chance": chance(cases)}
        return {name: _in_place(values, among, len(unit)) for name, values in found.items()}

    def _search(self, unit: NDArray[np.float32], cases: Cases, asked: list[tuple[int, Pairs]]) -> list[Found]:
        if self.search == "candidates":
            from models.results.candidates import nearest_candidates

            return nearest_candidates(unit, cases, asked)
        images, features = unit.shape
        if images > MANY:
            logger.warning(
                "result %s: %d images are compared with one another, which takes %.2g h of a core; `search: "
                "candidates` is quicker, and may miss neighbours",
                self.title, images, _SECONDS * images**2 * features / 3600,
            )  # fmt: skip
        return nearest(unit, asked)

    def _tell_of_lacking(self, near: NDArray[np.int32]) -> None:
        if lacking := int((near[:, -1] < 0).sum()):
            logger.warning(
                "result %s: %d of %d images have fewer than %d neighbours, since there are too few images of other "
                "subjects: -1 stands for those",
                self.title, lacking, len(near), self.neighbours,
            )  # fmt: skip


def _ranked(row: str, cosine: str, of: str, *axes: Axis) -> tuple[Output, Output]:
    """Declare the row of a neighbour, or of some of them along an axis, and the cosine with it."""
    rows = Output(
        name=row,
        dims=(IMAGE_ID, *(axis.name for axis in axes)),
        kind="result",
        long_name=f"row of {of}; -1 where there is none",
        dtype="int32",
        fill=-1,
        axes=axes,
    )
    return rows, _number(cosine, f"cosine with {of}", *axes)


def _number(name: str, about: str, *axes: Axis) -> Output:
    dims = (IMAGE_ID, *(axis.name for axis in axes))
    return Output(name=name, dims=dims, kind="result", long_name=about, axes=axes)


def _rows(near: NDArray[np.int32], among: NDArray[np.int32]) -> NDArray[np.int32]:
    """Turn numbers among the compared images into rows of the store."""
    if not len(among):
        return near
    rows: NDArray[np.int32] = np.where(near >= 0, among[near], np.int32(-1))
    return rows


def _in_place(values: NDArray[Any], among: NDArray[np.int32], images: int) -> NDArray[Any]:
    """Put the values of the compared images in their rows; those of the others are missing."""
    missing = -1 if values.dtype == np.int32 else np.nan
    placed = np.full((images, *values.shape[1:]), missing, values.dtype)
    placed[among] = values
    return placed
