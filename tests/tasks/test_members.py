"""Uncertainty and comparisons in the store: computed with a run or later, verified and withdrawn as maps are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.metrics.deletion import Deletion
from models.metrics.repeatability import Repeatability
from tasks.plan.plan import Plan
from tasks.prepare.metrics import add_metrics
from tasks.prepare.replan import Refused
from tasks.report import write_report
from tasks.storage.location import Location
from tasks.store import objects
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tasks.work import evaluate
from tasks.work.engines import Engines
from tasks.work.pending import pending
from tests.tasks.outputs import Cohort, carry_out, prepared, stored
from tests.tasks.test_evaluate import evaluated, without_run

VIEWS = {"name": "test_time_augmentation", "samples": 2, "explainers": ["saliency"]}


@pytest.fixture
def ensemble(cohort: Cohort) -> dict[str, Any]:
    """The cohort's network, and two others with weights that are a little different."""
    weights = load_file(cohort.model["weights"])
    names = []
    for number in (1, 2):
        generator = torch.Generator().manual_seed(number)
        names.append(str(cohort.folder / f"weights-{number}.safetensors"))
        noise = {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in weights.items()}
        save_file({name: value + noise[name] for name, value in weights.items()}, names[-1])
    return {"name": "deep_ensemble", "weights": names}


def test_an_ensemble_is_its_networks(cohort: Cohort, output: Location, ensemble: dict[str, Any]) -> None:
    carry_out(cohort.content(output, uncertainty=[ensemble], target={"name": "classes", "classes": ["b"]}))
    assert verify(output) == []
    found = open_store(output).load()
    alone = []
    for number, weights in enumerate([cohort.model["weights"], *ensemble["weights"]]):
        own = output.at(f"{output.url}-{number}")
        model = cohort.model | {"weights": weights}
        carry_out(cohort.content(own, model=model, target={"name": "classes", "classes": ["b"]}))
        alone.append(open_store(own).load())
    maps = np.stack([member["attribution"].values for member in alone]).astype(float)
    assert np.allclose(found.attribution_deep_ensemble_mean, maps.mean(0), rtol=0.02, atol=1e-3 * maps.max())
    assert np.allclose(found.attribution_deep_ensemble_spread, maps.std(0, ddof=1), rtol=0.02, atol=5e-3 * maps.max())
    probability = np.stack([member["probability"].values for member in alone]).astype(float)
    assert np.allclose(found.uncertainty_deep_ensemble_outputs, probability.std(0, ddof=1), atol=1e-6)
    mean = probability.mean(0)
    assert np.allclose(found.uncertainty_deep_ensemble_entropy, -(mean * np.log2(mean)).sum(1), atol=1e-5)
    assert "Lakshminarayanan" in found.uncertainty_deep_ensemble_entropy.attrs["references"]
    assert found.attribution_deep_ensemble_mean.encoding["chunks"] == found.attribution.encoding["chunks"]
    (pinned,) = Plan.read(output).uncertainty
    assert len(pinned.uncertainty.sha256) == 2  # type: ignore[attr-defined]
    save_file(load_file(cohort.model["weights"]), ensemble["weights"][0])
    with pytest.raises(Refused, match="holds 'deep_ensemble' with other parameters"):
        prepared(cohort.content(output, uncertainty=[ensemble], target={"name": "classes", "classes": ["b"]}))


def test_with_a_run_later_damaged_and_withdrawn(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    content = cohort.content(output, uncertainty=[VIEWS], metrics=["gini"])
    carry_out(content, report=True)
    before = stored(output)
    assert open_store(output).uncertainty_test_time_augmentation_maps.isel(explainer=1).isnull().all()
    later = Location(url=str(tmp_path / "later"))
    carry_out(cohort.content(later, metrics=["gini"]))
    carry_out(cohort.content(later, uncertainty=[VIEWS]))
    assert without_run(stored(later)) == without_run(before)
    assert pending(output, Plan.read(output)) == []
    keys = [key for key in before if "test_time" in key and "/c/1" in key]
    assert len(keys) == 8
    for key, damage in zip(keys, (b"", None, b"x" * 99, *[b"y"] * 5), strict=True):
        (output / objects.NAME / key).remove() if damage is None else (output / objects.NAME / key).write(damage)
    found = verify(output)
    assert {damage.where for damage in found} == set(keys)
    repair(output, found)
    assert verify(output) == [] and stored(output) == before
    withdraw(output, "patient-2")
    assert verify(output) == []
    after = open_store(output).load()
    for name in ("uncertainty_test_time_augmentation_entropy", "attribution_test_time_augmentation_mean"):
        assert np.isnan(after[name].values[4:6]).all()
    assert np.isfinite(after.uncertainty_test_time_augmentation_entropy.values[[0, 3, 6, 9]]).all()


def test_predictions_alone_can_be_unsure(cohort: Cohort, output: Location) -> None:
    carry_out(
        cohort.content(output, explainers=["prediction"], uncertainty=[VIEWS | {"explainers": None}]), report=True
    )
    assert verify(output) == []
    found = open_store(output).load()
    assert found.uncertainty_test_time_augmentation_mutual_information.notnull().all()
    assert "attribution_test_time_augmentation_mean" not in found


def test_what_cannot_be_unsure_is_refused(cohort: Cohort, output: Location, ensemble: dict[str, Any]) -> None:
    for wrong, complaint in (
        ("mc_dropout", "mc_dropout: Classifier has no dropout"),
        (VIEWS | {"explainers": ["gradcam"]}, "there are no maps by gradcam"),
        (ensemble | {"weights": ["nowhere.safetensors"]}, "deep_ensemble: there is no file"),
        (ensemble | {"sha256": ["0" * 64] * 2}, "the weights have SHA-256"),
        (ensemble | {"sha256": ["0" * 64]}, "2 weights, but 1 digests"),
    ):
        named = {"name": wrong} if isinstance(wrong, str) else wrong
        with pytest.raises(ValueError, match=complaint):
            prepared(cohort.content(output, uncertainty=[named]))


def test_maps_of_two_networks_are_compared(cohort: Cohort, output: Location, ensemble: dict[str, Any]) -> None:
    other, same = (output.at(f"{output.url}-{name}") for name in ("other", "same"))
    carry_out(cohort.content(output))
    carry_out(cohort.content(other, model=cohort.model | {"weights": ensemble["weights"][0]}))
    cohort.take_away([9])
    carry_out(cohort.content(same))
    compared = [Repeatability(label="with_itself")]
    evaluated(output, *compared, others=[same])
    evaluated(output, others=[other])
    assert verify(output) == []
    found, theirs = open_store(output).load(), open_store(other).load()
    assert np.allclose(found.metric_with_itself.values[:9], 1, atol=1e-5)
    assert np.isnan(found.metric_with_itself.values[9]).all()
    alike = (found.target_class == theirs.target_class).values[:, 0]
    assert 0 < alike.sum() < 10
    assert np.isnan(found.metric_repeatability.values[~alike]).all()
    for row in np.flatnonzero(alike):
        ranks = [dataset.attribution.values[row, 0, 0].ravel().argsort().argsort() for dataset in (found, theirs)]
        assert np.isclose(found.metric_repeatability_spearman.values[row, 0, 0], np.corrcoef(*ranks)[0, 1], atol=0.02)
    assert {"repeatability", "network_agreement"} <= {measure.title for measure in Plan.read(output).metrics}
    carry_out(cohort.content(other, explainers=["saliency"]), overwrite=True)
    with pytest.raises(ValueError, match="has no maps by smoothgrad"):
        add_metrics(output, [], Engines(), [other])
    write_report(output)


def test_what_cannot_be_compared_is_refused(cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(cohort.content(output))
    other = output.at(f"{output.url}-other")
    with pytest.raises(FileNotFoundError):
        add_metrics(output, [], Engines(), [other])
    source = cohort.content(output)["cohort"] | {"identifiers": "pseudonymous"}
    monkeypatch.setenv("COHORTLENS_PSEUDONYM_KEY", "another key of sixteen")
    carry_out(cohort.content(other, cohort=source))
    with pytest.raises(ValueError, match="no image in common"):
        add_metrics(output, [], Engines(), [other])
    carry_out(cohort.content(other, target={"name": "classes", "classes": ["b"]}), overwrite=True)
    with pytest.raises(ValueError, match="its target is"):
        add_metrics(output, [], Engines(), [other])
    (other / "commits/000001.json").remove()
    with pytest.raises(ValueError, match=r"1 of 3 shards of .*other are not delivered"):
        add_metrics(output, [], Engines(), [other])


def test_the_class_that_a_map_explains_is_the_one_that_is_evaluated(
    cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(cohort.content(output))
    taken = evaluate.StoredBatch.take

    def flipped(*given: Any) -> evaluate.StoredBatch:
        batch = taken(*given)
        return replace(batch, target_class=1 - batch.target_class)

    evaluated(output, Deletion(points=4, patch=4))
    right = open_store(output).load()
    monkeypatch.setattr(evaluate.StoredBatch, "take", flipped)
    for shard in Plan.read(output).shards:
        evaluate.forget(output, shard.index)
    evaluate.evaluate_shards(output, range(3), Engines())
    other = open_store(output).load()
    start = right.curve_deletion_probability.isel(point_deletion=0).values
    assert np.allclose(other.curve_deletion_probability.isel(point_deletion=0).values, 1 - start, atol=1e-5)
