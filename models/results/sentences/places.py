"""The places of a map: regions of an atlas, sides of the patient, the mask."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from models.outputs import Output
from models.phrases import listed, percent
from models.prediction import TARGET_CLASS
from models.results.sentences.base import TOLD, Case, Sentence, known

_INSIDE = "metric_relevance_mass"


def regions(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says, for each atlas, in which regions the map lies, and on which side."""
    for output in outputs.values():
        title = output.name.removesuffix("_share")
        if output.kind == "region" and output.name != title:
            (names,) = (axis.labels for axis in output.axes if axis.name == title)
            assert isinstance(names, tuple)
            reads = (TARGET_CLASS, *(f"{title}_{name}" for name in ("share", "volume", "outside")))
            yield Sentence(reads, partial(_in_regions, title=title, names=tuple(map(str, names))))
            side = f"{title}_laterality"
            yield Sentence((TARGET_CLASS, side), partial(_laterality, name=side))


def mask(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says how much of the map the mask holds."""
    yield Sentence((TARGET_CLASS, _INSIDE), _in_mask)


def _in_regions(case: Case, title: str, names: tuple[str, ...]) -> Iterator[str]:
    volume = case[f"{title}_volume"]
    for target, name in case.maps:
        share, outside = case.of_map(f"{title}_share", target), float(case.of_map(f"{title}_outside", target))
        there = [place for place in np.argsort(-share, kind="stable")[:TOLD] if share[place] > 0]
        if not there or not known(outside, volume[there]):
            continue
        held = [f"{percent(share[place])} in {names[place]} ({percent(volume[place])} of the image)" for place in there]
        spread = listed([*held, f"{percent(outside)} outside of all regions"])
        yield f"Of {name}, the regions hold these shares: {spread}."


def _laterality(case: Case, name: str) -> Iterator[str]:
    for target, of in case.maps:
        value = float(case.of_map(name, target))
        if known(value):
            side = "neither side" if abs(value) < 0.005 else f"the patient's {'left' if value > 0 else 'right'}"
            yield f"The laterality of {of} is {value:z.2f}, towards {side}."


def _in_mask(case: Case) -> Iterator[str]:
    for target, name in case.maps:
        share = float(case.of_map(_INSIDE, target))
        if known(share):
            yield f"The mask holds {percent(share)} of what is positive in {name}."
