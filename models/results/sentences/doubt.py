"""Reasons to doubt the prediction of a case, or its map."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from models.flags import in_words
from models.outputs import EXPLAINER, Output
from models.phrases import counted, listed, p_value, percent
from models.prediction import LOGIT, PROBABILITY, TARGET_CLASS
from models.results.concepts import SEPARATOR
from models.results.sentences.base import Case, Sentence
from models.results.sentences.neighbours import near, similar
from models.results.sentences.places import map_for
from models.results.shortcuts import HINT

_AGREEMENT = "metric_explainer_agreement"


def label(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says that the label is another than the prediction."""
    if PROBABILITY in outputs:
        yield Sentence((LOGIT, PROBABILITY), _not_labelled)


def neighbourhood(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says that most of the nearest cases have another label than the predicted class."""
    if PROBABILITY in outputs:
        for prefix, by in similar(outputs):
            yield Sentence((LOGIT, PROBABILITY, f"{prefix}_image"), partial(_among_others, prefix=prefix, by=by))


def agreement(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says how far the maps of explainers agree."""
    if _AGREEMENT in outputs:
        yield Sentence((TARGET_CLASS, _AGREEMENT), _agreeing)


def criticism(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says that the prototypes of a class do not stand for a case."""
    for output in outputs.values():
        prefix = output.name.removesuffix("_criticism")
        if "prototypes" in output.attrs and output.name != prefix:
            yield Sentence((output.name, f"{prefix}_witness"), partial(_criticised, prefix=prefix))


def shortcut(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says that a case lies in a cluster that hints at a shortcut."""
    for output in outputs.values():
        prefix = output.name.removesuffix("_cluster")
        if "shortcuts" in output.attrs and output.name != prefix and f"{prefix}_concentration" in outputs:
            names = tuple(f"{prefix}_{name}" for name in ("cluster", "flags", "share", "concentration", "p"))
            yield Sentence(names, partial(_clustered, names=names, by=str(output.attrs["by"])))


def flags(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says which flags are raised on the image, and on the map that is told of."""
    found = tuple(output for output in outputs.values() if output.kind == "flags")
    yield Sentence(tuple(output.name for output in found), partial(_raised, outputs=found))


def _not_labelled(case: Case) -> Iterator[str]:
    names, probability = set(case.labels[case.row].split(SEPARATOR)), case[PROBABILITY]
    classes, is_softmax = case.frame.classes, case.frame.activation == "softmax"
    if case.frame.segments or not names <= set(classes) or not np.isfinite(probability).all():
        return
    called = {case.foremost[0]} if is_softmax else set(np.flatnonzero(probability >= 0.5).tolist())
    for index, name in enumerate(classes):
        if (name in names) != (index in called) and (name in names or not is_softmax):
            does = "names" if name in names else "does not name"
            yield f"The label {does} {name}, to which the network gives a probability of {percent(probability[index])}."


def _among_others(case: Case, prefix: str, by: str) -> Iterator[str]:
    if case.frame.activation != "softmax" or case.frame.segments:
        return
    rows, predicted = near(case, prefix), case.frame.classes[case.foremost[0]]
    labelled = [set(case.labels[row].split(SEPARATOR)) for row in rows]
    others = sum(predicted not in names and not names.isdisjoint(case.frame.classes) for names in labelled)
    if 2 * others > len(rows):
        verb = "has" if others == 1 else "have"
        yield f"{others} of the {counted(len(rows), 'nearest case')} by {by} {verb} another label than {predicted}."


def _agreeing(case: Case) -> Iterator[str]:
    for target, name in case.targets:
        value = float(case.of_map(_AGREEMENT, target))
        if np.isfinite(value):
            yield f"The mean rank correlation of {map_for(case, name)} with the other maps is {value:z.2f}."


def _criticised(case: Case, prefix: str) -> Iterator[str]:
    for index, rank in np.argwhere(case[f"{prefix}_criticism"] == case.row).tolist():
        witness = float(case[f"{prefix}_witness"][index, rank])
        much = "little" if witness > 0 else "much"
        yield (
            f"This case is criticism {rank + 1} of {case.frame.classes[index]}: the prototypes stand for it too {much} "
            f"(witness {witness:.2g})."
        )


def _clustered(case: Case, names: tuple[str, ...], by: str) -> Iterator[str]:
    cluster, marks, share, concentration, p = (case[name] for name in names)
    own = int(cluster)
    if own >= 0 and marks[own] == HINT:
        yield (
            f"By {by}, this case lies in cluster {own}, with {percent(share[own])} of the images, which hints at a "
            f"shortcut: {percent(concentration[own])} of them have their strongest place in common, and their labels "
            f"differ from those of the others ({p_value(p[own])})."
        )


def _raised(case: Case, outputs: tuple[Output, ...]) -> Iterator[str]:
    found = []
    for output in outputs:
        values = case[output.name]
        if EXPLAINER in output.own_dims:
            values = values[:, case.frame.explainers.index(str(case.explainer))] if case.explainer else values[:0]
        bits = np.bitwise_or.reduce(values.ravel(), initial=0)
        found += [words for words, bit in in_words(output.name, output.flags).items() if bits & bit]
    if found:
        yield f"{counted(len(found), 'flag')} {'is' if len(found) == 1 else 'are'} raised: {listed(found)}."
