"""A case in words: sentences made from its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from models.phrases import listed, percent
from tasks.report.agreement import ENOUGH, Pair
from tasks.report.anatomy import view_of

NAMED = 6
"""Pairs of explainers that a sentence names; of more it says how many there are."""


@dataclass(frozen=True)
class Place:
    """A part of the image, its share of the image, and by explainer the share of the evidence that it holds."""

    name: str
    size: float
    held: Mapping[str, float]


@dataclass(frozen=True)
class Findings:
    """The numbers that the maps of one image give for one target; evidence is what is positive in a map.

    Attributes
    ----------
    places
        Where the maps of some explainers are strongest, by thirds of the image, each third once.
    mask
        The mask as a place; None where nothing is marked.
    without
        Explainers whose maps show no evidence.
    pairs
        The agreement of each two explainers.
    """

    places: Sequence[Place]
    mask: Place | None
    without: Sequence[str]
    pairs: Sequence[Pair]


def findings(image: xr.Dataset, target: int, explainers: Sequence[str], pairs: Sequence[Pair] = ()) -> Findings | None:
    """Measure the maps of some explainers; None if none of them is finite and positive anywhere."""
    shares = {}
    for name in explainers:
        values = np.asarray(image["attribution"].isel(target=target).sel(explainer=name).values, float)
        if np.isfinite(values).all() and (values > 0).any():
            positive = np.clip(values, 0, None)
            shares[name] = positive / positive.sum()
    if not shares:
        return None
    mask = image["mask"].values == 1 if "mask" in image else np.zeros(1, bool)
    inside = {name: float(share[mask].sum()) for name, share in shares.items()} if mask.any() else {}
    thirds = view_of(image).thirds()
    peaks: dict[str, dict[str, float]] = {}
    for name, share in shares.items():
        peak = share == share.max()  # a map may have several such places
        third = max(thirds, key=lambda third: np.count_nonzero(peak & thirds[third]))
        peaks.setdefault(third, {})[name] = float(share[thirds[third]].sum())
    return Findings(
        places=[Place(third, float(thirds[third].mean()), held) for third, held in peaks.items()],
        mask=Place("the mask", float(mask.mean()), inside) if inside else None,
        without=[name for name in explainers if name not in shares],
        pairs=pairs,
    )


def sentences(prediction: str, probability: float, label: str, right: bool | None, found: Findings | None) -> str:
    """Say what was predicted, how certainly, where whose evidence lies and which explainers agree.

    Parameters
    ----------
    probability
        Of the prediction; NaN where there is none.
    right
        None where it is not known.
    """
    said = _prediction(prediction, probability, label, right)
    return f"{said} No map shows evidence for it." if found is None else f"{said} {evidence_in_words(found)}"


def evidence_in_words(found: Findings) -> str:
    """Say where whose evidence lies and which explainers agree."""
    said = [_peaks(place) for place in sorted(found.places, key=lambda place: -len(place.held))]
    said += [_inside(found.mask)] if found.mask else []
    said += [f"{listed(found.without)} show{'s' * (len(found.without) == 1)} no evidence."] if found.without else []
    return " ".join([*said, *_agreement(found.pairs)])


def _prediction(prediction: str, probability: float, label: str, right: bool | None) -> str:
    if np.isnan(probability):
        return f"The model says {prediction}."
    certainty = "almost certainly" if probability > 0.95 else "probably" if probability > 0.75 else "with much doubt"
    said = f"The model says {prediction}, {certainty} ({percent(probability)})"
    if right is None:
        return f"{said}."
    return f"{said}, as labelled." if right else f"{said}, but the label is {label}."


def _peaks(place: Place) -> str:
    (first, share), *others = _ranked(place.held)
    peaks = [f"{first} ({percent(share)} of its evidence)", *(f"{name} ({percent(of)})" for name, of in others)]
    lie = "lie the peaks" if others else "lies the peak"
    return f"In {place.name}, {percent(place.size)} of all, {lie} of {listed(peaks)}."


def _inside(mask: Place) -> str:
    (first, share), *others = _ranked(mask.held)
    held = [
        f"{percent(share)} of the evidence of {first}",
        *(f"{percent(of)} of that of {name}" for name, of in others),
    ]
    return f"In {mask.name}, {percent(mask.size)} of all, {'lie' if others else 'lies'} {listed(held)}."


def _ranked(held: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(held.items(), key=lambda item: -item[1])


def _agreement(pairs: Sequence[Pair]) -> list[str]:
    judged = sorted((pair for pair in pairs if np.isfinite(pair.beyond)), key=lambda pair: -pair.shared)
    if pairs and not judged:
        return [
            "Whether the explainers agree is not judged: there are too few maps of other images to compare with "
            f"({ENOUGH} are needed)."
        ]
    agreeing, apart = ([pair for pair in judged if pair.agrees == agrees] for agrees in (True, False))
    if len(judged) > NAMED:
        return [f"{len(agreeing)} of {len(judged)} pairs of explainers agree."]
    said = [f"These agree on what is strongest: {_shared(agreeing)}."] if agreeing else []
    return [*said, f"These share no more than maps of different images may: {_shared(apart)}."] if apart else said


def _shared(pairs: Sequence[Pair]) -> str:
    first, *others = (f"{pair.one} with {pair.other} ({percent(pair.shared)}" for pair in pairs)
    return listed([f"{first} shared)", *(f"{pair})" for pair in others)])
