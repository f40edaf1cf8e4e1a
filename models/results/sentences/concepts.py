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
            if moves := moving(of, case[gradient][target], case[f"{title}_direction"][place]):
                yield (
                    f"Along the concept {names[place]}, {moves}; it rises in {percent(score[place])} of the images of "
                    f"{case.frame.classes[index]}, and along random concepts in {percent(random[place])} "
                    f"({p_value(p[place])})."
                )


def moving(of: str, gradient: np.ndarray, direction: np.ndarray) -> str:
    """Say how the output moves along a direction; nothing where a number is missing.

    The derivative is the same to the last bit on every machine.
    """
    if not known(gradient, direction):
        return ""
    slope = math.fsum((gradient.astype(np.float64) * direction).tolist())
    moves = "rises" if slope > 0 else "falls" if slope < 0 else "stays"
    return f"the network's output for {of} {moves} here (derivative {slope:.2g})"
