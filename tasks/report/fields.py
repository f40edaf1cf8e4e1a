"""The record in the report: how much each field counts, over all images and in a case."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from tasks.report.numbers import number

_NAMED = 3
"""Fields that a sentence names of each explainer, those of the largest magnitude."""


class FieldRow(NamedTuple):
    """Attribution by one explainer to a record, averaged over images and targets.

    Attributes
    ----------
    values
        The mean magnitude of each field.
    """

    explainer: str
    values: Sequence[float]


def by_explainer(dataset: xr.Dataset) -> list[FieldRow]:
    """Average the attribution to each field, for the explainers that attribute to records."""
    if "attribution_record" not in dataset:
        return []
    means = abs(dataset["attribution_record"]).mean(("image_id", "target"))
    rows = [FieldRow(str(name), means.sel(explainer=name).values.tolist()) for name in dataset["explainer"].values]
    return [row for row in rows if np.isfinite(row.values).all()]


def in_words(image: xr.Dataset, target: int) -> str:
    """Say which fields of an image's record count most, and whether for or against the target."""
    if "attribution_record" not in image:
        return ""
    return " ".join(_sentences(image.isel(target=target)))


def _sentences(image: xr.Dataset) -> Iterator[str]:
    for name in image["explainer"].values:
        values = image["attribution_record"].sel(explainer=name).values
        largest = [field for field in np.argsort(-np.abs(values), kind="stable")[:_NAMED] if values[field]]
        fields = ", ".join(f"{image['field'].values[field]} ({number(values[field], sign='+')})" for field in largest)
        if fields and np.isfinite(values).all():
            yield f"By {name}, these fields count most: {fields}."
