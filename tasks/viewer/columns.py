"""The columns of the worklist: what is known of each image in one number, word or set of flags."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from models.labels import NOTHING, SEPARATOR, without_concepts
from models.outputs import SPACE, Output, shape_of
from models.prediction import AFFINE, PROBABILITY, TARGET_CLASS
from tasks.cohort.entry import Entry
from tasks.plan.labels import read_labels
from tasks.plan.plan import Plan
from tasks.plan.predictions import held_against
from tasks.store.template import EXPLAINED, STATUS

Kind = Literal["word", "number", "flags", "truth"]

_TYPES = {"word": pa.string(), "number": pa.float32(), "flags": pa.int32(), "truth": pa.bool_()}
_MOST_PLACES = 256
"""The number of values that an output has of an image at most, to be columns: those of an atlas's regions are not."""


class Column(BaseModel):
    """One column of the worklist.

    Attributes
    ----------
    name
        Name in the file: that of the variable, and the coordinates along its dimensions, as in
        ``metric_gini/lesion/saliency``.
    title, about
        A few words for a heading; what the values are.
    kind
        A `word` is empty where it is not known, a `number` NaN, a `truth` null; `flags` are bits that add up.
    variable, at
        The array of the store, and by dimension where in it the values are; empty where they are of no array.
    better
        `higher` or `lower`, of a metric that is better so.
    flags
        By name of a flag, its bit.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    about: str
    kind: Kind
    variable: str = ""
    at: Mapping[str, str] = {}
    units: str = "1"
    better: str = "none"
    flags: Mapping[str, int] = {}

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, _TYPES[self.kind], nullable=self.kind == "truth")

    def array(self, values: Any) -> pa.Array:
        """Make an array of the column's type; NaN stays a number."""
        if self.kind in ("number", "flags"):
            values = np.asarray(values, self.field.type.to_pandas_dtype())
        return pa.array(values, self.field.type)


class Rows(NamedTuple):
    """Some successive images of an output: their entries, and what is stored of them."""

    plan: Plan
    entries: Sequence[Entry]
    stored: xr.Dataset


def columns(plan: Plan) -> list[Column]:
    """Describe the columns of an output, those that one looks at first before the others."""
    outputs = (output for output in plan.outputs.values() if _is_shown(output, plan))
    return [*_of_image(plan), *_of_table(plan), *(column for output in outputs for column in _of_output(output, plan))]


def values(rows: Rows) -> Iterator[Any]:
    """Read the values of each of `columns`, in their order, each ``(image,)``."""
    yield from _image_values(rows)
    yield from _table_values(rows)
    for output in rows.plan.outputs.values():
        if _is_shown(output, rows.plan):
            yield from _output_values(output, rows)


def _of_image(plan: Plan) -> Iterator[Column]:
    yield Column(name="id", title="image", about="name of the image", kind="word", variable="image_id")
    yield Column(name="label", title="label", about="reference label", kind="word", variable="label")
    if PROBABILITY in plan.outputs:
        exclusive = plan.model.activation == "softmax"
        said = "the likeliest class" if exclusive else f"the classes of a probability of 0.5 or more, with {SEPARATOR}"
        yield Column(name="predicted", title="predicted", about=said, kind="word")
        yield Column(name="right", title="right", about="whether prediction and label agree", kind="truth")
        yield Column(name="certainty", title="certainty", about="probability of what is predicted", kind="number")
        of = "of the prediction" if exclusive else "of the class that is least certain"
        yield Column(name="entropy", title="entropy", about=f"uncertainty {of}", kind="number", units="bit")
    yield Column(name="status", title="status", about="what became of the image", kind="word", variable="status")
    yield Column(name="reason", title="reason", about="why the image was left out", kind="word")
    yield Column(name="subject", title="subject", about="whose image it is, by pseudonym", kind="word")
    about = "whether the image was in the cohort at the last run"
    yield Column(name="present", title="present", about=about, kind="truth", variable="present")


def _image_values(rows: Rows) -> Iterator[Any]:
    plan, entries = rows.plan, rows.entries
    status = rows.stored["status"].values
    yield [entry.id for entry in entries]
    yield [entry.label or "" for entry in entries]
    if PROBABILITY in plan.outputs:
        yield from _predicted(rows, status == EXPLAINED)
    yield np.array(STATUS)[status]
    yield [entry.reason or "" for entry in entries]
    yield [entry.subject or "" for entry in entries]
    yield [None if entry.withdrawn else entry.present for entry in entries]


def _predicted(rows: Rows, explained: NDArray[np.bool_]) -> Iterator[Any]:
    plan = rows.plan
    classes, activation = plan.model.classes, plan.model.activation
    spelt = without_concepts((entry.label or "" for entry in rows.entries), plan.concepts)
    found = held_against(
        read_labels(spelt, classes, activation == "softmax"), rows.stored[PROBABILITY].values, activation
    )
    names = np.array(classes)
    said = [SEPARATOR.join(names[own]) or NOTHING[0] for own in found.called]
    yield np.where(explained, said, "")
    yield pa.array(~found.wrong, mask=~(found.known & explained))
    yield np.where(explained, found.certainty, np.nan)
    yield np.where(explained, found.entropy, np.nan)


def _of_table(plan: Plan) -> Iterator[Column]:
    for name in plan.frame.covariates:
        about = f"{name}, by the cohort table"
        at = {"covariate": name}
        yield Column(name=f"covariate/{name}", title=name, about=about, kind="word", variable="covariate_value", at=at)
    for name in plan.cohort.measures:
        yield Column(name=f"measure/{name}", title=name, about=f"{name}, which the network is not shown", kind="number")


def _table_values(rows: Rows) -> Iterator[Any]:
    for place in range(len(rows.plan.frame.covariates)):
        yield [entry.covariates[place] if entry.covariates else "" for entry in rows.entries]
    for place in range(len(rows.plan.cohort.measures)):
        yield np.array([entry.measures[place] if entry.measures else None for entry in rows.entries], np.float32)


def _is_shown(output: Output, plan: Plan) -> bool:
    """Tell whether an output is columns: a few values of each image, at places that have names."""
    if not output.per_image or output.dtype == "string" or output.name == AFFINE:
        return False
    labels = [_labels(output, dim, plan) for dim in output.own_dims]
    return None not in labels and 0 < np.prod(shape_of(output, plan.frame), dtype=int) <= _MOST_PLACES


def _labels(output: Output, dim: str, plan: Plan) -> Sequence[str] | None:
    """Name the places along a dimension; None where they have no names."""
    frame = plan.frame
    own = {axis.name: axis.labels for axis in output.axes}
    common = {"class": frame.classes, "target": frame.targets, "explainer": frame.explainers}
    labels = own.get(dim, common.get(dim, frame.channels if dim == "channel" else ()))
    if dim in SPACE or isinstance(labels, int) or not all(isinstance(label, str) for label in labels):
        return None
    return [str(label) for label in labels]


def _places(output: Output, plan: Plan) -> Iterator[dict[str, str]]:
    labels = [_labels(output, dim, plan) or () for dim in output.own_dims]
    for place in product(*labels):
        yield dict(zip(output.own_dims, place, strict=True))


def _of_output(output: Output, plan: Plan) -> Iterator[Column]:
    sizes = dict(zip(output.own_dims, shape_of(output, plan.frame), strict=True))
    kind: Kind = "flags" if output.flags else "word" if output.name == TARGET_CLASS else "number"
    for at in _places(output, plan):
        told = [label for dim, label in at.items() if sizes[dim] > 1]
        words = output.name.replace("_", " ")
        yield Column(
            name="/".join((output.name, *at.values())),
            title=f"{words}: {', '.join(told)}" if told else words,
            about=output.long_name,
            kind=kind,
            variable=output.name,
            at=at,
            units=output.units,
            better=str(output.attrs.get("better", "none")),
            flags=output.flags,
        )


def _output_values(output: Output, rows: Rows) -> Iterator[Any]:
    stored = rows.stored[output.name].values
    flat = stored.reshape(len(stored), -1).T
    for own in flat:
        if output.name == TARGET_CLASS:
            yield np.array([*rows.plan.model.classes, ""])[own]  # the index of none is -1
        elif output.flags:
            yield own
        else:
            yield own if output.fill is None else np.where(own == output.fill, np.nan, own)
