"""Other cases beside a case: the nearest ones, and those for which it stands."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from models.outputs import Output
from models.phrases import counted, listed, percent
from models.results.sentences.base import Case, Sentence


def neighbours(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says, for each result of similar cases, how near they are, and how many have the label of the case."""
    for prefix, by in similar(outputs):
        reads = (f"{prefix}_image", f"{prefix}_cosine")
        yield Sentence(reads, partial(_nearest, prefix=prefix, by=by))
        if (other := f"{prefix}_other_label_cosine") in outputs:
            yield Sentence(reads, partial(_labelled, prefix=prefix, by=by))
            yield Sentence((other,), partial(_otherwise, name=other, by=by))


def standing(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says of which class a case is a prototype."""
    for output in outputs.values():
        prefix = output.name.removesuffix("_image")
        if "prototypes" in output.attrs and output.name != prefix:
            yield Sentence((output.name, f"{prefix}_share"), partial(_stands, prefix=prefix))


def similar(outputs: Mapping[str, Output]) -> Iterator[tuple[str, str]]:
    """List the results of similar cases: how the names of their outputs begin, and what is compared."""
    for output in outputs.values():
        if "similar" in output.attrs and output.name.endswith("_image"):
            yield output.name.removesuffix("_image"), str(output.attrs["by"])


def near(case: Case, prefix: str) -> list[int]:
    """List the rows of the nearest cases."""
    return [row for row in case[f"{prefix}_image"].tolist() if row >= 0]


def _nearest(case: Case, prefix: str, by: str) -> Iterator[str]:
    if near(case, prefix):
        yield f"By {by}, the nearest case of another subject has a cosine of {case[f'{prefix}_cosine'][0]:.3f}."


def _labelled(case: Case, prefix: str, by: str) -> Iterator[str]:
    rows, own = near(case, prefix), case.labels[case.row]
    if not rows or not own:
        return
    labels = [case.labels[row] for row in rows]
    same, none = labels.count(own), labels.count("")
    counts = {"the same label": same, "another": len(rows) - same - none, "none": none}
    found = [f"{number} {'has' if number == 1 else 'have'} {what}" for what, number in counts.items() if number]
    yield f"Of the {counted(len(rows), 'nearest case')} by {by}, {listed(found)}."


def _otherwise(case: Case, name: str, by: str) -> Iterator[str]:
    if np.isfinite(cosine := float(case[name])):
        yield f"The nearest case with another label by {by} has a cosine of {cosine:.3f}."


def _stands(case: Case, prefix: str) -> Iterator[str]:
    for index, rank in np.argwhere(case[f"{prefix}_image"] == case.row).tolist():
        share = percent(float(case[f"{prefix}_share"][index, rank]))
        of = case.frame.classes[index]
        yield f"This case is prototype {rank + 1} of {of}, the nearest prototype of {share} of the images of {of}."
