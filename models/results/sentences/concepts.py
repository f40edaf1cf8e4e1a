"""Concepts: whether the target rises with them in a case."""

import math
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from models.explainers.pooled import gradient_of
from models.outputs import Output
from models.phrases import p_value, percent
from models.prediction import TARGET_CLASS
from models.results.sentences.base import TOLD, Case, Sentence, known


def concepts(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says, for each result of concepts, whether the target rises with them."""
    for output in outputs.values():
        title = str(output.attrs.get("concepts"))
        if output.name == f"{title}_score":
            (names,) = (axis.labels for axis in output.axes if axis.name == output.dims[0])
            assert isinstance(names, tuple)
            gradient = gradient_of(str(output.attrs["of"]))
            of_concepts = (f"{title}_{name}" for name in ("direction", "score", "random_score", "p"))
            say = partial(_rising, title=title, gradient=gradient, names=tuple(map(str, names)))
            yield Sentence((TARGET_CLASS, gradient, *of_concepts), say)


def _rising(case: Case, title: str, gradient: str, names: tuple[str, ...]) -> Iterator[str]:
    for target, of in case.targets:
        index = int(case[TARGET_CLASS][target])
        score, random, p = (case[f"{title}_{name}"][:, index] for name in ("score", "random_score", "p"))
        tested = np.flatnonzero(np.isfinite([score, random, p]).all(0))
        for place in tested[np.argsort(p[tested], kind="stable")][:TOLD]:
            slope = _derivative(case[gradient][target], case[f"{title}_direction"][place])
            if known(slope):
                moves = "rises" if slope > 0 else "falls" if slope < 0 else "stays"
                yield (
                    f"Along the concept {names[place]}, the network's output for {of} {moves} here (derivative "
                    f"{slope:.2g}); it rises in {percent(score[place])} of the images of {case.frame.classes[index]}, "
                    f"and along random concepts in {percent(random[place])} ({p_value(p[place])})."
                )


def _derivative(gradient: np.ndarray, direction: np.ndarray) -> float:
    """Compute the derivative along a direction, which is the same to the last bit on every machine."""
    return math.fsum((gradient.astype(np.float64) * direction).tolist())
