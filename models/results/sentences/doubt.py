"""Reasons to doubt the prediction of a case, or its map."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from models.flags import in_words
from models.labels import named
from models.outputs import EXPLAINER, Output
from models.phrases import counted, listed, p_value, percent
from models.prediction import LOGIT, PROBABILITY, TARGET_CLASS
from models.results.sentences.base import TOLD, Case, Sentence, known
from models.results.shortcuts import ShortcutFlag, hints

_AGREEMENT = "metric_explainer_agreement"


def label(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says that the label is another than the prediction."""
    yield Sentence((LOGIT, PROBABILITY), _not_labelled)


def agreement(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says how far the maps of explainers agree."""
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
        if "shortcuts" in output.attrs and output.name != prefix:
            names = tuple(f"{prefix}_{name}" for name in ("cluster", "flags", "share", "concentration", "p"))
            covariates = f"{prefix}_covariate_p" if f"{prefix}_covariate_p" in outputs else None
            reads = (*names, *([covariates] if covariates else []))
            yield Sentence(reads, partial(_clustered, names=names, covariates=covariates, by=str(output.attrs["by"])))


def flags(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says which flags are raised on the image, and on the map that is told of."""
    found = tuple(output for output in outputs.values() if output.kind == "flags")
    yield Sentence(tuple(output.name for output in found), partial(_raised, outputs=found))


def _not_labelled(case: Case) -> Iterator[str]:
    probability, classes = case[PROBABILITY], case.frame.classes
    is_softmax = case.frame.activation == "softmax"
    names = named(case.labels[case.row], classes, is_softmax)
    if case.frame.segments or names is None or not known(probability):
        return
    differing = names - case.called if is_softmax else names ^ case.called
    for name in sorted(differing, key=classes.index)[:TOLD]:
        does, given = "names" if name in names else "does not name", percent(probability[classes.index(name)])
        yield f"The label {does} {name}, to which the network gives a probability of {given}."


def _agreeing(case: Case) -> Iterator[str]:
    for target, name in case.maps:
        value = float(case.of_map(_AGREEMENT, target))
        if known(value):
            yield f"The mean rank correlation of {name} with the other maps is {value:z.2f}."


def _criticised(case: Case, prefix: str) -> Iterator[str]:
    for index, rank in np.argwhere(case[f"{prefix}_criticism"] == case.row).tolist():
        witness = float(case[f"{prefix}_witness"][index, rank])
        if known(witness):
            much = "little" if witness > 0 else "much"
            of = f"{rank + 1} of {case.frame.classes[index]}"
            yield f"This case is criticism {of}: the prototypes stand for it too {much} (witness {witness:.2g})."


def _clustered(case: Case, names: tuple[str, ...], covariates: str | None, by: str) -> Iterator[str]:
    own = int(case[names[0]])
    marks, share, concentration, p = (case[name][own] for name in names[1:])
    if own < 0 or not hints(marks) or not known(share, concentration):
        return
    differing = [f"labels ({p_value(p)})"] if marks & ShortcutFlag.LABELS_DIFFER and known(p) else []
    if covariates and marks & ShortcutFlag.COVARIATES_DIFFER:
        least, name = min(zip(case[covariates][own], case.frame.covariates, strict=True))
        differing.append(f"values of {name} ({p_value(least)})")
    if differing:
        yield (
            f"By {by}, this case lies in cluster {own}, with {percent(share)} of the images, which hints at a "
            f"shortcut: {percent(concentration)} of them have their strongest place in common, and their "
            f"{listed(differing)} differ from those of the others."
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
