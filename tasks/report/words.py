"""A case in words: sentences made from its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import rankdata

_HALVES = {
    2: (("upper", "lower"), ("left", "right")),
    3: (("first", "last"), ("upper", "lower"), ("left", "right")),
}
_PATIENT = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))
_ORDER = ("left", "right", "anterior", "posterior", "superior", "inferior")


@dataclass(frozen=True)
class Findings:
    """The numbers that the maps of one image give for one target.

    Attributes
    ----------
    inside
        By explainer, the share of its positive evidence that lies in the mask; empty without a mask.
    region
        The part of the image that holds most of the positive evidence, as the mean over explainers.
    region_share
        How much of it, and `even` how much of the image the region is.
    agreement
        Mean rank correlation between the maps of two explainers; NaN for fewer than two.
    """

    inside: Mapping[str, float]
    mask_share: float
    region: str
    region_share: float
    even: float
    agreement: float

    @property
    def mean_inside(self) -> float:
        return float(np.mean(list(self.inside.values()))) if self.inside else np.nan


def findings(image: xr.Dataset, target: int, explainers: Sequence[str]) -> Findings | None:
    """Measure the maps of some explainers; None if none of them is finite and positive anywhere."""
    maps = {
        name: np.asarray(image["attribution"].isel(target=target).sel(explainer=name).values, float)
        for name in explainers
    }
    maps = {name: values for name, values in maps.items() if np.isfinite(values).all() and (values > 0).any()}
    if not maps:
        return None
    shares = {name: np.clip(values, 0, None) / np.clip(values, 0, None).sum() for name, values in maps.items()}
    mask = image["mask"].values == 1 if "mask" in image else np.zeros(1, bool)
    inside = {name: float(share[mask].sum()) for name, share in shares.items()} if mask.any() else {}
    places = regions(next(iter(maps.values())).shape, image["affine"].values)
    mean = np.mean(list(shares.values()), axis=0)
    name, place = max(places.items(), key=lambda item: mean[item[1]].sum())
    return Findings(
        inside=inside,
        mask_share=float(mask.mean()),
        region=name,
        region_share=float(mean[place].sum()),
        even=float(place.mean()),
        agreement=_agreement(list(maps.values())),
    )


def regions(shape: Sequence[int], affine: NDArray[np.floating]) -> dict[str, NDArray[np.bool_]]:
    """Halve every axis of an image: quadrants or octants, named by the patient's directions where they are known."""
    dims = len(shape)
    names = list(_HALVES[dims])
    columns = affine[:3, 3 - dims : 3]
    if np.isfinite(columns).all():
        main = np.abs(columns).argmax(0)
        if len(set(main)) == dims:
            ends = [_PATIENT[axis] for axis in main]
            names = [
                pair if columns[axis, number] > 0 else pair[::-1]
                for number, (axis, pair) in enumerate(zip(main, ends, strict=True))
            ]
    found = {}
    for corner in np.ndindex(*(2,) * dims):
        words = [pair[side] for pair, side in zip(names, corner, strict=True)]
        place = np.zeros(shape, bool)
        place[
            tuple(
                slice(size // 2, None) if side else slice(size // 2) for side, size in zip(corner, shape, strict=True)
            )
        ] = True
        known = set(words) <= set(_ORDER)
        found[" ".join(sorted(words, key=_ORDER.index) if known else words)] = place
    return found


def sentences(prediction: str, probability: float, label: str, right: bool | None, found: Findings | None) -> str:
    """Say what was predicted, how certainly, where the evidence lies and how far explainers agree.

    Parameters
    ----------
    probability
        Of the prediction; NaN where there is none.
    right
        None where it is not known.
    """
    return " ".join(
        part for part in (_prediction(prediction, probability, label, right), _evidence(found), _doubt(found)) if part
    )


def _prediction(prediction: str, probability: float, label: str, right: bool | None) -> str:
    if np.isnan(probability):
        return f"The model says {prediction}."
    certainty = "almost certainly" if probability > 0.95 else "probably" if probability > 0.75 else "with much doubt"
    said = f"The model says {prediction}, {certainty} ({100 * probability:.0f} %)"
    if right is None:
        return f"{said}."
    return f"{said}, as labelled." if right else f"{said}, but the label is {label}."


def _evidence(found: Findings | None) -> str:
    if found is None:
        return "No map shows evidence for it."
    share, even = f"{100 * found.region_share:.0f} %", f"{100 * found.even:.0f} %"
    said = f"{share} of the evidence lies {found.region}, which is {even} of the image"
    if not found.inside:
        return f"{said}."
    return f"{said}; {100 * found.mean_inside:.0f} % lies in the mask, which is {100 * found.mask_share:.1f} % of it."


def _doubt(found: Findings | None) -> str:
    if found is None or np.isnan(found.agreement):
        return ""
    level = found.agreement
    if level > 0.6:
        return f"The explainers agree (rank correlation {level:.2f})."
    if level > 0.3:
        return f"The explainers agree in part (rank correlation {level:.2f})."
    return f"The explainers hardly agree (rank correlation {level:.2f}): what they show should not be relied on."


def _agreement(maps: Sequence[NDArray[np.floating]]) -> float:
    if len(maps) < 2:
        return np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.corrcoef([rankdata(values) for values in maps])
    pairs = matrix[np.triu_indices(len(maps), 1)]
    return float(np.nanmean(pairs)) if np.isfinite(pairs).any() else np.nan
