import logging
from collections.abc import Mapping, Sequence
from enum import IntFlag
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.errors import ConfigurationError
from models.explainers.pooled import feature_of, gradient_of
from models.outputs import IMAGE_ID, Axis, Frame, Output, flags_of
from models.prediction import IMAGE, MASK, TARGET_CLASS
from models.results.base import Arrays, Result, Stored
from models.results.concepts import (
    FEWEST,
    LabelledImages,
    Rows,
    Vectors,
    gradients_of_classes,
    tell_of_unscored_classes,
)
from models.results.mask_measures import OF_PICTURES, MaskMeasure, measure_mask, names_of
from models.results.ridge import FOLDS, NO_REGRESSION, SHUFFLES, Regression, regress
from models.results.statistics import LEVEL, holm

logger = logging.getLogger(__name__)


_MOST = 2000
"""A regression is made of at most so many images."""

_SPREAD = 1e-5
"""The deviation of sensitivities, as a part of their mean, below which it is rounding."""

Floats = NDArray[np.float64]


class MeasureFlag(IntFlag):
    """Why a measure is reported as no concept."""

    TOO_FEW_IMAGES = 1
    TOO_FEW_SUBJECTS = 2
    CONSTANT = 4
    AT_CHANCE = 8


A_CONCEPT = MeasureFlag(0)


class RCV(Result):
    """Regression concept vectors, with bidirectional relevance (Graziani et al. 2018, arXiv:1904.04520, and 2020,
    doi:10.1016/j.compbiomed.2020.103865).

    A measure of images, such as an age, or the area of their mask, is regressed on the pooled activations of a layer;
    the concept vector ``v`` is the unit vector along which it rises. ``S(x) = grad S_c(x) v`` is the sensitivity of the
    explained scalar, and ``Br = R^2 mean(S) / std(S)`` over the images of a class: above 0 the target rises with the
    measure, below 0 it falls, and around 0 it does not heed the measure. The images of a class are those of which the
    class was explained and whose label names it, or names no class.

    The regression is ridge regression. ``R^2`` is that on subjects who were not seen, in five folds, at most 1, with
    an interval of 95 % by bootstrap over subjects. ``p`` is the share of shuffled measures that are told as well,
    corrected for the number of measures (Holm). A measure that no more than chance is told of, that is constant, or
    that fewer than 20 images or 5 subjects have, is no concept and is not scored. An image without a measure is left
    out.

    A shape is scikit-image's `regionprops` of all that the mask marks, in steps of the model's grid; intensities are
    those within, before normalisation.
    """

    name: Literal["rcv"] = "rcv"
    measures: tuple[str, ...] = Field((), strict=False, description="Measures of the cohort, by cohort.measures")
    of_mask: tuple[MaskMeasure, ...] = Field(
        (), strict=False, description="Measures of the mask's shape, and of the image's intensities within"
    )
    of: str = Field("pooled_activations", description="Explainer `pooled_activations`, by its label if it has one")

    @model_validator(mode="after")
    def _has_measures(self) -> Self:
        named = (*self.measures, *names_of(self.of_mask, ()))
        if not named:
            raise ConfigurationError(
                "it has no measure: name columns of cohort.measures in `measures`, or measures of masks, such as "
                "area, in `of_mask`"
            )
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ConfigurationError(f"it has the measure {', '.join(twice)} twice: name it once")
        if len(named) > (most := int(LEVEL * (1 + SHUFFLES))):
            raise ConfigurationError(
                f"it has {len(named)} measures, and of more than {most} none can be told from chance: share them out "
                "to several results, each with a label"
            )
        return self

    def reads(self) -> tuple[str, ...]:
        return (self.of, gradient_of(self.of), TARGET_CLASS, *((MASK, IMAGE) if self.of_mask else ()))

    def reads_measures(self) -> tuple[str, ...]:
        return self.measures

    def check(self, outputs: Mapping[str, Output]) -> None:
        if self.of_mask and MASK not in outputs:
            raise ConfigurationError(
                f"results: {self.title}: no image of the cohort has a mask to measure: name masks in the column `mask` "
                "of a cohort table, or leave of_mask out"
            )
        super().check(outputs)

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        if len(frame.grid) > 2 and (flat := [name for name in self.of_mask if name in OF_PICTURES]):
            raise ConfigurationError(
                f"results: {self.title}: {', '.join(flat)} is a measure of pictures, and the model takes volumes: "
                "leave it out of of_mask"
            )
        of = f"{self.title}_measure"
        axis = Axis(name=of, labels=self._names(frame), long_name="measure")
        attrs = {"measures": self.title, "of": self.of, "class_of": "label"}

        def declared(name: str, dims: tuple[str, ...], about: str, **more: Any) -> Output:
            name = f"{self.title}_{name}"
            return Output(name=name, dims=dims, kind="result", long_name=about, axes=(axis,), attrs=attrs, **more)

        return (
            declared("value", (IMAGE_ID, of), "value of the measure; NaN where there is none", dtype="float64"),
            declared("direction", (of, feature_of(self.of)), "unit vector along which the measure rises"),
            declared("sensitivity", (of, "class"), "derivative of the target along the direction, mean over images"),
            declared("br", (of, "class"), "bidirectional relevance, R^2 mean / deviation of the sensitivity"),
            declared("r2", (of,), "coefficient of determination on other subjects, R^2"),
            declared("r2_low", (of,), "coefficient of determination, lower end of its 95 % interval"),
            declared("r2_high", (of,), "coefficient of determination, upper end of its 95 % interval"),
            declared("p", (of,), "share of shuffled measures that are told as well, corrected by Holm"),
            declared("images", (of,), "images that have the measure", dtype="int32", fill=0),
            declared("missing", (of,), "explained images that lack the measure", dtype="int32", fill=0),
            declared("flags", (of,), "why a measure is no concept; bits that add up", dtype="uint8", fill=0,
                     flags=flags_of(MeasureFlag)),
        )  # fmt: skip

    def compute(self, stored: Stored) -> Arrays:
        images, values = LabelledImages(stored), self._values(stored)
        known = [images.rows[np.isfinite(of_images[images.rows])] for of_images in values.T]
        lacking = [
            _lacking(of_images[rows], images.subjects[rows]) for of_images, rows in zip(values.T, known, strict=True)
        ]
        found, features = self._regress(stored, images, values, known, lacking)
        p = holm(np.array([one.p for one in found]))
        flags = [flag or _unless_told(one.r2, of) for flag, one, of in zip(lacking, found, p.tolist(), strict=True)]
        self._tell(stored.frame, values, known, flags)
        direction = np.full((len(found), features), np.nan)
        for place in np.flatnonzero(np.array(flags) == A_CONCEPT):
            direction[place] = found[place].direction
        sensitivity, deviation = _sensitivities(stored, self.of, images, direction)
        tell_of_unscored_classes(self.title, stored.frame, sensitivity)
        r2 = np.array([one.r2 for one in found])
        return self._stored(
            value=values,
            direction=direction,
            sensitivity=sensitivity,
            br=r2[:, None] * self._ratio(sensitivity, deviation),
            r2=r2,
            r2_low=[one.low for one in found],
            r2_high=[one.high for one in found],
            p=p,
            images=[len(rows) for rows in known],
            missing=[len(images.rows) - len(rows) for rows in known],
            flags=flags,
        )

    def _stored(self, **arrays: Any) -> Arrays:
        kinds = {"value": np.float64, "images": np.int32, "missing": np.int32, "flags": np.uint8}
        return {f"{self.title}_{name}": np.array(one, kinds.get(name, np.float32)) for name, one in arrays.items()}

    def _names(self, frame: Frame) -> tuple[str, ...]:
        return (*self.measures, *names_of(self.of_mask, frame.channels))

    def _values(self, stored: Stored) -> Floats:
        """Collect the value of each measure, ``(image, measure)``; NaN where an image has none or is not explained."""
        values = np.full((len(stored.ids), len(self._names(stored.frame))), np.nan)
        for place, name in enumerate(self.measures):
            values[stored.explained, place] = stored.measures[name][stored.explained]
        for rows, block in stored.blocks(MASK, IMAGE) if self.of_mask else ():
            for row in np.flatnonzero(stored.explained[rows]).tolist():
                measured = measure_mask(block[MASK][row] == 1, block[IMAGE][row], self.of_mask)
                values[rows.start + row, len(self.measures) :] = measured
        return values

    def _regress(
        self,
        stored: Stored,
        images: LabelledImages,
        values: Floats,
        known: Sequence[Rows],
        lacking: Sequence[MeasureFlag],
    ) -> tuple[list[Regression], int]:
        """Regress each measure that can be, on at most so many images; return the number of features, too."""
        drawn = [_drawn(rows) for rows in known]
        vectors = Vectors(stored, self.of, drawn)
        found = [
            NO_REGRESSION if flag else regress(vectors[rows], of_images[rows], images.subjects[rows].tolist())
            for flag, of_images, rows in zip(lacking, values.T, drawn, strict=True)
        ]
        return found, vectors.features

    def _ratio(self, mean: Floats, deviation: Floats) -> Floats:
        """Divide the mean of sensitivities by their deviation; NaN where the latter is none, which is logged."""
        varied = deviation > _SPREAD * np.abs(mean)
        if (np.isfinite(mean) & ~varied).any():
            logger.warning(
                "%s: the gradient is much the same for all images, so that sensitivities have no deviation and there "
                "is no Br: name an earlier layer in %s",
                self.title,
                self.of,
            )
        return np.divide(mean, deviation, out=np.full(mean.shape, np.nan), where=varied)

    def _tell(self, frame: Frame, values: Floats, known: Sequence[Rows], flags: Sequence[MeasureFlag]) -> None:
        """Log which measures are no concepts."""
        for name, of_images, rows, flag in zip(self._names(frame), values.T, known, flags, strict=True):
            if flag:
                why = str(flag.name).lower().replace("_", " ")
                value = f", {of_images[rows[0]]:g} in all images" if flag == MeasureFlag.CONSTANT else ""
                logger.warning("%s: %r is no concept and is not scored: %s%s", self.title, name, why, value)


def _lacking(measure: Floats, subjects: NDArray[np.str_]) -> MeasureFlag:
    if len(measure) < FEWEST:
        return MeasureFlag.TOO_FEW_IMAGES
    if len(np.unique(subjects)) < FOLDS:
        return MeasureFlag.TOO_FEW_SUBJECTS
    return A_CONCEPT if np.ptp(measure) else MeasureFlag.CONSTANT


def _unless_told(r2: float, p: float) -> MeasureFlag:
    return A_CONCEPT if r2 > 0 and p <= LEVEL else MeasureFlag.AT_CHANCE


def _drawn(rows: Rows) -> Rows:
    """Draw at most so many images, in their order."""
    if len(rows) <= _MOST:
        return rows
    return rows[np.sort(np.random.default_rng(len(rows)).choice(len(rows), _MOST, replace=False))]


def _sensitivities(stored: Stored, of: str, images: LabelledImages, directions: Floats) -> tuple[Floats, Floats]:
    """Compute mean and deviation of the derivatives along directions, ``(direction, class)`` each.

    Derivatives are summed up by the order of ids, and one by one, so that their sums depend on no shard. They are NaN
    where there is no direction, or no image of the class.
    """
    classes = len(stored.frame.classes)
    found: list[list[tuple[Rows, Floats]]] = [[] for _ in range(classes)]
    for index, rows, gradients in gradients_of_classes(stored, of, images):
        along = [(gradients.astype(np.float64) * direction).sum(1) for direction in directions]
        found[index].append((rows, np.array(along).reshape(len(directions), len(rows))))
    place = np.empty(len(stored.ids), np.intp)
    place[images.rows] = np.arange(len(images.rows))
    mean, deviation = np.full((2, len(directions), classes), np.nan)
    for index, parts in enumerate(found):
        order = np.argsort(place[np.concatenate([rows for rows, _ in parts])], kind="stable")
        if len(order):
            ordered = np.concatenate([some for _, some in parts], axis=1)[:, order]
            mean[:, index], deviation[:, index] = ordered.mean(1), ordered.std(1)
    return mean, deviation
