"""Counterfactuals: whether a change turns the prediction of a case, and how far away it is."""

from collections.abc import Iterator, Mapping
from functools import partial

from models.explainers.counterfactual import KIND, MEASURES
from models.outputs import Output
from models.phrases import percent
from models.prediction import TARGET_CLASS
from models.results.sentences.base import Case, Sentence, known


def counterfactuals(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says, for each search, whether the prediction turns, and at what distance."""
    for output in outputs.values():
        title = output.name.removesuffix("_valid")
        if output.kind == KIND and output.name != title:
            found = (output.name, f"{title}_distance", f"{title}_probability")
            yield Sentence((TARGET_CLASS, *found), partial(_turning, title=title))


def _turning(case: Case, title: str) -> Iterator[str]:
    for target, of in case.targets:
        valid, probability = (float(case[f"{title}_{name}"][target]) for name in ("valid", "probability"))
        distance = dict(zip(MEASURES, case[f"{title}_distance"][target].tolist(), strict=True))
        if valid == 0:
            yield f"By {title}, no change was found that turns the prediction about {of} (validity 0)."
        elif known(valid, probability, *distance.values()):
            yield (
                f"By {title}, the prediction about {of} turns at a distance of {distance['latent']:.3g} in the latent "
                f"space (L2 over the image {distance['L2']:.3g}), where the probability of {of} is "
                f"{percent(probability)}."
            )
