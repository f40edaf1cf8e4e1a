"""Runs on pictures of 16 x 16, of which the network takes 8 x 8 at once."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.saliency import Saliency
from models.targets import Predicted
from tasks.plan import shards as shards_module
from tasks.prepare.replan import Refused
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tasks.work.engines import Engines
from tasks.work.finish import finish
from tests.tasks.outputs import (
    NETWORK,
    Cohort,
    carry_out,
    explained,
    planned,
    prepared,
    promised,
    squares_model,
    stored,
)

ASKED: list[Any] = ["saliency", "gradcam", {"name": "occlusion", "window": 4, "stride": 4}]


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    cohort = Cohort(tmp_path / "cohort", range(6))
    cohort.model = squares_model(cohort.folder, ("a", "b"), NETWORK | {"in_shape": [1, 8, 8]})
    cohort.model |= {"input_shape": [8, 8], "windows": {"image_shape": [16, 16], "overlap": 0.5}}
    return cohort


@pytest.fixture
def content(cohort: Cohort, tmp_path: Path) -> dict[str, Any]:
    """Nine windows an image, two images at once."""
    return cohort.content(Location(url=str(tmp_path / "out")), explainers=ASKED, compute={"batch_size": 20})


def test_maps_are_those_of_the_whole_image(cohort: Cohort, content: dict[str, Any]) -> None:
    ready = prepared(content)
    assert ready.plan.grid == (16, 16) and ready.plan.images_at_once == 2
    assert [shard.batches for shard in ready.plan.shards] == [((0, 1), (2, 3)), ((0, 1),)]
    output = Location.model_validate(content["output"])
    carry_out(content, report=True)
    dataset = open_store(output).load()
    network = Engines().network(promised(output)[0])
    images = torch.from_numpy(np.stack([np.load(cohort.folder / f"{number}.npy")[None] for number in range(6)]))
    expected = Engine(network, [Saliency()], Predicted(), 7).explain(images, [str(number) for number in range(6)])
    np.testing.assert_allclose(dataset.attribution.values[:, :, :1], expected.maps, rtol=2**-7)
    assert dataset.sizes["y"] == dataset.sizes["x"] == 16
    assert dataset.mask.values.max() == 1


def test_the_order_and_the_number_of_workers_change_no_byte(content: dict[str, Any], tmp_path: Path) -> None:
    carry_out(content)
    other = content | {"output": {"url": str(tmp_path / "other")}}
    output = Location.model_validate(other["output"])
    planned(other)
    for shard in (1, 0):
        explained(output, [shard])
    finish(output)
    assert stored(output) == stored(Location.model_validate(content["output"]))


def test_a_run_goes_on_with_a_changed_source_and_another_explainer(cohort: Cohort, content: dict[str, Any]) -> None:
    output = Location.model_validate(content["output"])
    planned(content)
    explained(output, [0])  # and the run ends here
    cohort.add([1], version=1)
    cohort.take_away([5])
    more = content | {"explainers": [*ASKED, {"name": "smoothgrad", "samples": 2}]}
    assert carry_out(more, extend=True).explained == 5
    assert verify(output) == []
    shutil.rmtree(output.url + "/commits")
    assert carry_out(more, extend=True).explained == 5
    before = open_store(output).load()
    withdraw(output, "patient-1")
    assert verify(output) == []
    after = open_store(output).load()
    assert np.isnan(after.attribution.values[2:4]).all()
    assert np.array_equal(after.attribution.values[:2], before.attribution.values[:2])


@pytest.mark.parametrize(
    "windows", [None, {"image_shape": [16, 16]}, {"image_shape": [16, 16], "overlap": 0.5, "pool": "max"}]
)
def test_other_windows_are_another_run(content: dict[str, Any], windows: dict[str, Any] | None) -> None:
    ready = planned(content)
    changed = content | {"model": content["model"] | {"windows": windows}}
    if windows is None:
        with pytest.raises(ConfigurationError, match=r"takes \(8, 8\): mend .* state model\.windows"):
            prepared(changed, overwrite=True)
        return
    with pytest.raises(Refused, match=r"model\.windows: "):
        prepared(changed)
    assert prepared(changed, overwrite=True).plan.part_digests != ready.plan.part_digests


def test_the_forecast_counts_windows(content: dict[str, Any]) -> None:
    cost = prepared(content | {"explainers": ["saliency"], "target": {"name": "classes", "classes": ["b"]}}).cost
    assert (cost.forward_passes, cost.backward_passes) == (6 * 9, 6 * 9)
    cost = prepared(content | {"explainers": [ASKED[2]]}).cost
    # A square of 4 x 4 lies in one, two or four of the windows that begin every 4 places.
    assert cost.forward_passes == 6 * (9 + (1 + 2 + 2 + 1) ** 2)


def test_explainers_that_cannot_be_right_are_refused_by_name(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"scorecam: asks about features .* use gradcam"):
        prepared(content | {"explainers": ["saliency", "scorecam"]})
