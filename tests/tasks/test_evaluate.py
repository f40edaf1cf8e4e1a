"""Metrics of a store: what they say, and that they are recorded, resumed, verified and withdrawn as maps are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.metrics.deletion import Deletion
from models.metrics.hit_rate import HitRate
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.prepare.metrics import add_metrics
from tasks.prepare.replan import Refused
from tasks.report import write_report
from tasks.run import complete
from tasks.storage.location import Location
from tasks.store import objects, template
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tasks.work import evaluate
from tasks.work.engines import Engines
from tasks.work.finish import Incomplete, finish
from tasks.work.pending import pending
from tests.tasks.outputs import Cohort, carry_out, explained, prepared, stored

METRICS: list[Any] = [{"name": "deletion", "points": 4, "patch": 4}, "hit_rate", "auprc", "gini"]


def without_run(content: dict[str, bytes]) -> dict[str, bytes]:
    """The bytes of a store but for the run's name, and the digest of a plan that names its own place."""
    root = json.loads(content["zarr.json"])
    for name in ("run_id", "plan_digest"):
        root["attributes"].pop(name)
    return content | {"zarr.json": json.dumps(root).encode()}


def evaluated(output: Location, *metrics: Any, others: Sequence[Location] = ()) -> Plan:
    """Do what the flow does."""
    plan = add_metrics(output, metrics, Engines(), others)
    template.set_up(output, plan, manifest.read(output))
    complete(output, Engines())
    return plan


def test_values_by_hand(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output, metrics=METRICS, explainers=["saliency", "control_random"]))
    assert verify(output) == []
    dataset = open_store(output).load()
    for row in range(10):
        for place, values in enumerate(dataset.attribution.values[row, 0]):
            peak = np.unravel_index(values.argmax(), values.shape)
            assert dataset.metric_hit_rate.values[row, 0, place] == (dataset["mask"].values[row][peak] == 1)
    share = (dataset["mask"] == 1).mean(("y", "x"))
    assert np.allclose(dataset.metric_auprc_chance.values, share.values[:, None, None])
    shown, chosen = dataset.curve_deletion_probability, dataset.probability.max("class").values
    assert np.allclose(shown.values[..., 0], chosen[:, None, None], atol=1e-6)
    assert np.allclose(shown.integrate("point_deletion").values, dataset.metric_deletion.values, atol=1e-5)
    assert dataset.metric_deletion.attrs["better"] == "lower"
    assert dataset.metric_auprc_chance.attrs["companion_of"] == "metric_auprc"
    assert "Petsiuk" in dataset.metric_deletion.attrs["references"]


def test_a_shard_is_evaluated_before_the_background_is_delivered(
    cohort: Cohort, output: Location, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {
        "explainers": [{"name": "expected_gradients", "samples": 2}],
        "metrics": [{"name": "max_sensitivity", "samples": 1}],
    }
    later = Location(url=str(tmp_path / "later"))
    carry_out(cohort.content(later, **asked))
    ready = prepared(cohort.content(output, **asked))
    assert [len(fit.images) for fit in ready.plan.fits] == [10]
    ready.plan.write(output, ready.entries)
    template.set_up(output, ready.plan, ready.entries)
    for shard in range(3):
        explained(output, [shard], ready.sources)
        evaluate.evaluate_shards(output, [shard], Engines())  # as a worker that has just started
    finish(output)
    assert without_run(stored(output)) == without_run(stored(later))


def test_metrics_with_a_run_are_those_that_are_computed_later(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    carry_out(cohort.content(output, metrics=METRICS))
    later = Location(url=str(tmp_path / "later"))
    carry_out(cohort.content(later))
    evaluated(later, Deletion(points=4, patch=4), HitRate())
    carry_out(cohort.content(later, metrics=METRICS))
    assert without_run(stored(later)) == without_run(stored(output))


def test_everything_that_applies_is_computed_by_default_and_shown(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output, explainers=["saliency", "control_random"]))
    plan = evaluated(output)
    titles = {measured.metric.title for measured in plan.metrics}
    assert {"insertion", "road_morf", "sensitivity_n", "infidelity", "iou", "relevance_rank", "entropy"} <= titles
    assert not titles & {"repeatability", "network_agreement", "max_sensitivity", "cascading_randomisation"}
    assert verify(output) == []
    page = write_report(output).read().decode()
    assert page.index("<h3>faithfulness</h3>") < page.index("<h3>plausibility</h3>") < page.index("<h3>agreement</h3>")


def test_only_what_lacks_metrics_is_evaluated_again(
    cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(cohort.content(output, metrics=METRICS))
    before = stored(output)
    (output / evaluate.Evaluation.folder / "000001.json").remove()
    (output / objects.NAME / "metric_gini/c/2/0/0").write(b"short")
    plan = Plan.read(output)
    with pytest.raises(Incomplete, match="2 of 3 shards lack metrics"):
        finish(output)
    assert pending(output, plan) == [1, 2]
    seen = []
    monkeypatch.setattr(
        evaluate, "_evaluate", lambda *given, _do=evaluate._evaluate: (seen.append(given[3].index), _do(*given))
    )
    (output / evaluate.Evaluation.folder / "000002.json").remove()
    carry_out(cohort.content(output, metrics=METRICS))
    assert seen == [1, 2]
    assert stored(output) == before


def test_damaged_metrics_are_found_and_mended(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output, metrics=METRICS))
    before = stored(output)
    keys = [key for key in before if key.startswith(("metric_", "curve_")) and "/c/" in key]
    assert len(keys) == 3 * 6
    for key, damage in zip(keys[::5], (b"", b"flipped", None, b"x" * 99), strict=True):
        (output / objects.NAME / key).remove() if damage is None else (output / objects.NAME / key).write(damage)
    (output / evaluate.Evaluation.folder / "000000.json").write(b"{}")
    found = verify(output)
    assert {damage.where for damage in found if damage.what == "metric"} >= {
        key for key in keys[::5] if "/c/0" not in key
    }
    repair(output, found)
    assert verify(output) == []
    assert stored(output) == before


def test_added_explainers_and_images_are_evaluated_too(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    carry_out(cohort.content(output, metrics=METRICS, explainers=["saliency"]))
    before = open_store(output).load()
    cohort.add(range(10, 13))
    carry_out(cohort.content(output, explainers=["saliency", "control_edges"]), extend=True)
    assert verify(output) == []
    after = open_store(output).load()
    assert np.isfinite(after.metric_gini.values).all() and after.metric_gini.shape == (13, 1, 2)
    assert np.array_equal(after.metric_gini.values[:8, :, :1], before.metric_gini.values[:8])


def test_what_is_withdrawn_has_no_metrics_and_the_rest_keeps_its_own(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output, metrics=METRICS), report=True)
    before = open_store(output).load()
    withdraw(output, "patient-2")
    assert verify(output) == []
    after = open_store(output).load()
    rest = [row for row in range(10) if row not in (4, 5)]
    for name in ("metric_deletion", "metric_hit_rate", "metric_gini", "curve_deletion_probability"):
        assert np.isnan(after[name].values[4:6]).all()
        assert np.array_equal(after[name].values[rest], before[name].values[rest], equal_nan=True)


def test_what_cannot_be_evaluated_is_refused(cohort: Cohort, output: Location) -> None:
    with pytest.raises(FileNotFoundError):
        add_metrics(output, [HitRate()], Engines())
    carry_out(cohort.content(output, explainers=["prediction"]))
    with pytest.raises(ValueError, match="holds no maps to evaluate"):
        add_metrics(output, [HitRate()], Engines())
    carry_out(cohort.content(output, metrics=["hit_rate"]), overwrite=True)
    with pytest.raises(Refused, match="'hit_rate' with other parameters"):
        add_metrics(output, [HitRate(tolerance_mm=3)], Engines())
    (output / "commits/000001.json").remove()
    with pytest.raises(ValueError, match="1 of 3 shards"):
        add_metrics(output, [HitRate(label="other")], Engines())


def test_an_added_metric_is_computed_alone(cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(cohort.content(output, metrics=["hit_rate"]))
    asked, values = [], evaluate._values

    def noted(network: Any, left: Any, *rest: Any) -> Any:
        asked.extend(measured.metric.name for measured in left)
        return values(network, left, *rest)

    monkeypatch.setattr(evaluate, "_values", noted)
    carry_out(cohort.content(output, metrics=["gini"]))
    assert set(asked) == {"gini"}
    assert {measured.metric.name for measured in Plan.read(output).metrics} == {"hit_rate", "gini"}
    assert verify(output) == []
