"""Measures: whether the target rises with them in a case."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from models.explainers.pooled import gradient_of
from models.outputs import Output
from models.prediction import TARGET_CLASS
from models.results.sentences.base import TOLD, Case, Sentence
from models.results.sentences.concepts import moving


def measures(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says, for each result of measures, whether the target rises with them."""
    for output in outputs.values():
        title = str(output.attrs.get("measures"))
        if output.name == f"{title}_br":
            (names,) = (axis.labels for axis in output.axes if axis.name == output.dims[0])
            assert isinstance(names, tuple)
            gradient = gradient_of(str(output.attrs["of"]))
            say = partial(_rising, title=title, gradient=gradient, names=tuple(map(str, names)))
            yield Sentence((TARGET_CLASS, gradient, f"{title}_direction", f"{title}_br", f"{title}_r2"), say)


def _rising(case: Case, title: str, gradient: str, names: tuple[str, ...]) -> Iterator[str]:
    r2 = case[f"{title}_r2"]
    for target, of in case.targets:
        index = int(case[TARGET_CLASS][target])
        br = case[f"{title}_br"][:, index]
        told = np.flatnonzero(np.isfinite([br, r2]).all(0))
        for place in told[np.argsort(-np.abs(br[told]), kind="stable")][:TOLD]:
            if moves := moving(of, case[gradient][target], case[f"{title}_direction"][place]):
                yield (
                    f"Along the measure {names[place]}, {moves}; over the images of {case.frame.classes[index]}, its "
                    f"bidirectional relevance is {br[place]:.2g}, with an R² of {r2[place]:.2f}."
                )
