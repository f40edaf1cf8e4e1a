"""Other cases beside a case: the nearest ones, and those for which it stands."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from models.labels import SEPARATOR
from models.outputs import Output
from models.phrases import counted, listed, percent
from models.prediction import LOGIT, PROBABILITY
from models.results.sentences.base import Case, Sentence, known


def neighbours(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says, for each result of similar cases, how near they are, and how they are labelled."""
    for prefix, by in _similar(outputs):
        rows, cosine, other = f"{prefix}_image", f"{prefix}_cosine", f"{prefix}_other_label_cosine"
        yield Sentence((rows, cosine), partial(_nearest, rows=rows, cosine=cosine, by=by))
        yield Sentence((LOGIT, PROBABILITY, rows), partial(_as_predicted, rows=rows, by=by))
        yield Sentence((LOGIT, PROBABILITY, rows), partial(_as_labelled, rows=rows, by=by))
        yield Sentence((other,), partial(_otherwise, cosine=other, by=by))


def other_neighbours(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says that most of the nearest cases are not labelled as the case is predicted."""
    for prefix, by in _similar(outputs):
        rows = f"{prefix}_image"
        yield Sentence((LOGIT, PROBABILITY, rows), partial(_as_predicted, rows=rows, by=by, mostly=False))


def standing(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says of which class a case is a prototype."""
    for output in outputs.values():
        prefix = output.name.removesuffix("_image")
        if "prototypes" in output.attrs and output.name != prefix:
            yield Sentence((output.name, f"{prefix}_share"), partial(_stands, prefix=prefix))


def _similar(outputs: Mapping[str, Output]) -> Iterator[tuple[str, str]]:
    """List the results of similar cases: how the names of their outputs begin, and what is compared."""
    for output in outputs.values():
        if "similar" in output.attrs and output.name.endswith("_image"):
            yield output.name.removesuffix("_image"), str(output.attrs["by"])


def _near(case: Case, rows: str) -> list[str]:
    """List the labels of the nearest cases."""
    return [case.labels[row] for row in case[rows].tolist() if row >= 0]


def _nearest(case: Case, rows: str, cosine: str, by: str) -> Iterator[str]:
    if _near(case, rows) and known(first := case[cosine][0]):
        yield f"By {by}, the nearest case of another subject has a cosine of {first:.3f}."


def _as_predicted(case: Case, rows: str, by: str, mostly: bool = True) -> Iterator[str]:
    labels = _near(case, rows)
    names = [set(label.split(SEPARATOR)) for label in labels]
    if not case.is_of_one_class or set().union(*names).isdisjoint(case.frame.classes):
        return
    (predicted,) = case.called
    same = sum(predicted in own for own in names)
    if (2 * same >= len(labels)) == mostly:
        yield _counts(labels, same, f"the predicted label {predicted}", by)


def _as_labelled(case: Case, rows: str, by: str) -> Iterator[str]:
    labels, own = _near(case, rows), case.labels[case.row]
    is_told = case.is_of_one_class and own in case.called
    if labels and own and not is_told:
        yield _counts(labels, labels.count(own), "the label of this case", by)


def _counts(labels: list[str], same: int, what: str, by: str) -> str:
    none = labels.count("")
    counts = {"another": len(labels) - same - none, "none": none}
    found = [f"{same} {_have(same)} {what}", *(f"{few} {_have(few)} {name}" for name, few in counts.items() if few)]
    return f"Of the {counted(len(labels), 'nearest case')} by {by}, {listed(found)}."


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _otherwise(case: Case, cosine: str, by: str) -> Iterator[str]:
    if known(value := float(case[cosine])):
        yield f"By {by}, the nearest case with another label has a cosine of {value:.3f}."


def _stands(case: Case, prefix: str) -> Iterator[str]:
    for index, rank in np.argwhere(case[f"{prefix}_image"] == case.row).tolist():
        share, of = case[f"{prefix}_share"][index, rank], case.frame.classes[index]
        if known(share):
            held = f"{percent(share)} of the images predicted as {of}"
            yield f"This case is prototype {rank + 1} of {of}, and the nearest of {held}."
