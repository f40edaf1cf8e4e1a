"""Labels of producers are names in the store: no two things have one, and a file can have it."""

from pathlib import Path
from typing import Any

import pytest

from models.errors import ConfigurationError
from models.metrics import METRICS
from tasks.prepare.metrics import add_metrics
from tasks.storage.location import Location
from tasks.upkeep.verify import verify
from tasks.work.engines import Engines
from tests.tasks.outputs import Cohort, carry_out, stored


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort", range(3))


def means(label: str) -> dict[str, Any]:
    return {"name": "mean_maps", "label": label}


@pytest.mark.parametrize(
    "name", ["status", "shard", "label", "class", "explainer", "image_id", "x", "world", "zarr.json", "image"]
)
def test_a_name_that_the_store_has_is_refused_before_anything_is_written(
    cohort: Cohort, output: Location, name: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}'.*another `label`"):
        carry_out(cohort.content(output, results=[means(name)]))
    assert not output.sizes()


def test_a_name_that_the_store_has_is_refused_when_results_or_metrics_are_added(
    cohort: Cohort, output: Location
) -> None:
    carry_out(cohort.content(output, results=[means("near_cosine"), means("metric_gini")]))
    before = stored(output)
    near = {"name": "similar_cases", "label": "near", "of": "attribution", "explainer": "saliency"}
    with pytest.raises(ConfigurationError, match="'near_cosine' is declared twice"):
        carry_out(cohort.content(output, results=[near]))
    with pytest.raises(ConfigurationError, match="'metric_gini' is declared twice"):
        add_metrics(output, [METRICS.kinds["gini"]()], Engines())
    assert stored(output) == before and verify(output) == []


def test_a_result_does_not_have_the_name_of_a_dimension_of_another(cohort: Cohort, output: Location) -> None:
    shortcuts = {"name": "shortcuts", "label": "a", "explainer": "saliency", "clusters": 2}
    with pytest.raises(ConfigurationError, match="two things of the name 'a_clusters'"):
        carry_out(cohort.content(output, results=[shortcuts, means("a_clusters")]))


def test_the_longest_label_is_the_name_of_a_file(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output, results=[{"name": "words", "label": "\U0001f9e0" * 48}]))
    assert verify(output) == []
    with pytest.raises(ValueError, match="at most 48 characters"):
        carry_out(cohort.content(output, results=[means("a" * 49)]))
