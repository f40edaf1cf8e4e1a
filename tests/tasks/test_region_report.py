"""Regions in the report: shares against volumes beside controls, and where subjects with a class differ."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import mannwhitneyu
from statsmodels.stats.multitest import multipletests

from tasks.plan.labels import read_labels
from tasks.plan.planned import PlannedResult
from tasks.plan.regions import Regions
from tasks.report.regions import ByRegion, by_region

SUBJECTS, EXPLAINERS = 20, ("control_random", "saliency", "gradcam")
REGIONS = tuple(f"region {number}" for number in range(15))
VOLUME = np.linspace(0.01, 0.09, len(REGIONS))
LOOKED_AT, DIFFERENT = 4, 7
RESULT = Regions.model_validate(
    {"atlas": "atlas.nii", "names": {number + 1: name for number, name in enumerate(REGIONS)}, "flag_outside": 0.3}
)


def dataset(difference: float = 0.0, seed: int = 0) -> xr.Dataset:
    """Two images a subject; subjects take turns in having class b; saliency looks at a region, gradcam at nothing."""
    generator = np.random.default_rng(seed)
    share = VOLUME * np.exp(0.1 * generator.normal(size=(2 * SUBJECTS, 1, 3, len(REGIONS))))
    share[:, :, 1, LOOKED_AT] *= 3
    has_b = np.arange(2 * SUBJECTS) // 2 % 2 == 1
    share[has_b, :, 2, DIFFERENT] *= 1 + difference
    outside = 1 - share.sum(-1)
    of_map = ("image_id", "target", "explainer")
    volume = np.broadcast_to(VOLUME, (2 * SUBJECTS, len(REGIONS))).copy()
    volume[0], share[0], outside[0] = np.nan, np.nan, np.nan
    flags = np.where(outside > 0.3, 4, 0).astype(np.uint8)
    flags[0] = 2
    return xr.Dataset(
        {
            "regions_share": ((*of_map, "regions"), share),
            "regions_volume": (("image_id", "regions"), volume),
            "regions_outside": (of_map, outside),
            "regions_laterality": (of_map, np.zeros_like(outside)),
            "regions_flags": (of_map, flags),
            "target_class": (("image_id", "target"), has_b[:, None].astype(int)),
        },
        {"explainer": list(EXPLAINERS), "class": ["a", "b"], "regions": list(REGIONS)},
    )


def shown(data: xr.Dataset, labels: list[str] | None = None) -> ByRegion:
    spelt = labels or ["ab"[number // 2 % 2] for number in range(2 * SUBJECTS)]
    subjects = [f"subject {number // 2}" for number in range(2 * SUBJECTS)]
    planned = [PlannedResult(result=RESULT, outputs=())]
    (found,) = by_region(data, planned, subjects, read_labels(spelt, ["a", "b"], True), exclusive=True)
    return found


def test_the_region_that_is_looked_at_comes_first_and_differs_from_the_control() -> None:
    found = shown(dataset())
    assert found.explainers == ["saliency", "gradcam", "control_random"] and found.has_controls
    assert (found.regions, len(found.rows), found.images, found.unreached, found.unplaced) == (15, 12, 39, 1, 0)
    name, volume, (saliency, gradcam, control) = found.rows[0]
    assert name == REGIONS[LOOKED_AT] and np.isclose(volume, VOLUME[LOOKED_AT])
    against = dataset()["regions_share"].values[1:, 0, 1, LOOKED_AT] / VOLUME[LOOKED_AT]
    assert np.isclose(saliency.mean, against.mean()) and saliency.low < against.mean() < saliency.high
    assert (saliency.is_chance, gradcam.is_chance, control.is_chance) == (False, True, False)
    assert found.flagged == (dataset()["regions_outside"].values[:, 0, [1, 2, 0]] > 0.3).sum(0).tolist()


def test_a_planted_difference_is_found_with_the_p_of_scipy_and_statsmodels() -> None:
    data = dataset(difference=0.5)
    found = shown(data)
    assert found.tested == len(REGIONS) * len(EXPLAINERS)
    (one,) = found.differences
    assert (one.of_class, one.explainer, one.region) == ("b", "gradcam", REGIONS[DIFFERENT])
    assert one.with_it > one.without
    share = np.nanmean(data["regions_share"].values[:, 0].reshape(SUBJECTS, 2, 3, -1), axis=1)
    p = mannwhitneyu(share[1::2], share[::2]).pvalue
    corrected = multipletests(p.ravel(), method="holm")[1].reshape(p.shape)
    assert np.isclose(one.p, corrected[2, DIFFERENT], rtol=1e-9) and one.p == corrected.min() < 0.05


def test_nothing_is_found_where_nothing_differs() -> None:
    alarms = sum(bool(shown(dataset(seed=seed)).differences) for seed in range(20))
    assert alarms <= 3  # at 5 %, more are seen in one of 63 repetitions


@pytest.mark.parametrize("labels", [["a"] * 2 * SUBJECTS, [""] * 2 * SUBJECTS, ["a", "b"] * SUBJECTS])
def test_classes_are_not_compared_without_two_subjects_of_each(labels: list[str]) -> None:
    found = shown(dataset(difference=0.5), labels)
    assert found.tested == 0 and found.differences == []
