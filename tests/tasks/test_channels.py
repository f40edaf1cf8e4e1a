"""Maps of each channel from the plan to the report: forecast, stored, resumed, extended, verified, withdrawn, shown."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import cohortlens
from flows.cli.printing import _of_plan
from flows.config import RunConfig, check
from models.explainers.base import CHANNEL_MAPS, CHANNEL_SHARE
from models.loading import load_module
from tasks.plan import shards as shards_module
from tasks.plan.plan import Plan
from tasks.report.shares import mean_shares, shares_in_words
from tasks.storage.location import Location
from tasks.store.objects import NAME
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import NETWORK, Cohort, carry_out, explained, planned, prepared, squares_model, stored

SEQUENCES = 3
ASKED = ["saliency", "gradcam", {"name": "occlusion", "window": 8, "stride": 8}]


class Sequences(Cohort):
    """Pictures of three channels, of which the last holds a bright square."""

    def __init__(self, folder: Path, numbers: range) -> None:
        super().__init__(folder, numbers)
        self.model = squares_model(folder, ("a", "b"), NETWORK | {"in_shape": [SEQUENCES, 16, 16]})
        self.model["channels"] = SEQUENCES

    def add(self, numbers: Any, version: int = 0) -> None:
        super().add(numbers, version)
        for number in numbers:
            pixels = np.random.default_rng([number, version]).normal(size=(SEQUENCES, 16, 16))
            pixels[-1, 4:8, 4:8] += 3
            np.save(self.folder / f"{number}.npy", pixels.astype(np.float32))


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequences:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    return Sequences(tmp_path / "cohort", range(10))


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    return cohort.content(output, **{"explainers": ASKED, "channels": "keep"} | changes)


def computed(output: Location) -> dict[str, bytes]:
    return {key: data for key, data in stored(output).items() if "/c/" in key and not key.startswith("explainer/")}


def test_they_are_forecast_stored_and_shown_beside_the_same_maps(
    cohort: Sequences, output: Location, tmp_path: Path
) -> None:
    combined = Location(url=str(tmp_path / "combined"))
    bare = prepared(cohort.content(combined, explainers=ASKED))
    ready = prepared(content(cohort, output))
    a_map = 3 * SEQUENCES * 4
    assert ready.cost.bytes_stored - bare.cost.bytes_stored == 10 * a_map * (16 * 16 + 1)
    assert ready.cost.forward_passes - bare.cost.forward_passes == 10 * SEQUENCES * 4  # four windows, a channel
    assert ready.plan.maps == bare.plan.maps == ("saliency", "gradcam", "occlusion")
    assert dict(_of_plan(ready))["  of each channel"] == "saliency, occlusion; gradcam look at all channels at once"
    carry_out(cohort.content(combined, explainers=ASKED))
    carry_out(content(cohort, output, metrics=["gini"]), report=True)
    assert verify(output) == []
    alone, kept = computed(combined), computed(output)
    assert all(kept[key] == data for key, data in alone.items())
    assert {key.split("/")[0] for key in kept.keys() - alone.keys()} == {"metric_gini", CHANNEL_MAPS, CHANNEL_SHARE}
    dataset = open_store(output).load()
    assert dataset[CHANNEL_MAPS].dims == ("image_id", "target", "explainer", "channel", "y", "x")
    assert dataset[CHANNEL_SHARE].sel(explainer="gradcam").isnull().all()
    share = dataset[CHANNEL_SHARE].sel(explainer=["saliency", "occlusion"])
    sums = abs(dataset[CHANNEL_MAPS]).sum(("y", "x")).sel(explainer=["saliency", "occlusion"])
    np.testing.assert_allclose(share, sums / sums.sum("channel"), rtol=2**-7)
    page = (output / "report/index.html").read().decode()
    assert "Which channel mattered?" in page and "channel 2" in page
    assert re.search(r"Shares of the attribution. saliency: channel \d [\d.]+ %", page)


def test_a_notebook_gives_what_a_run_stores(cohort: Sequences, output: Location) -> None:
    config = cohortlens.load(content(cohort, output))
    cohortlens.run(config)
    kept = open_store(output).load()
    module = load_module(config.model, config.model.weights.read())
    images = np.stack([np.load(cohort.folder / f"{number}.npy") for number in cohort.numbers])
    ids = kept.image_id.values.tolist()
    found = cohortlens.explain(module, images, ASKED, channels="keep", batch_size=3, ids=ids)
    assert found.channel.values.tolist() == kept.channel.values.tolist()
    for name, rtol in ((CHANNEL_MAPS, 2**-8), (CHANNEL_SHARE, 1e-5)):
        assert found[name].dims == kept[name].dims and found[name].dtype == kept[name].dtype
        np.testing.assert_allclose(found[name], kept[name], rtol=rtol, atol=1e-9)
    with pytest.raises(ValueError, match="channels: keep: the model takes images of one channel"):
        cohortlens.explain(nn.Conv2d(1, 2, 3), images[:, :1], channels="keep")


def test_a_run_without_them_shows_none(cohort: Sequences, output: Location) -> None:
    carry_out(cohort.content(output, explainers=["saliency"]), report=True)
    assert CHANNEL_MAPS not in open_store(output)
    page = (output / "report/index.html").read().decode()
    assert "mattered" not in page and "Shares of the attribution" not in page


def test_the_order_of_shards_and_an_interruption_change_no_byte(
    cohort: Sequences, output: Location, tmp_path: Path
) -> None:
    at_once = Location(url=str(tmp_path / "at-once"))
    carry_out(content(cohort, at_once))
    planned(content(cohort, output))
    explained(output, [2])
    (output / NAME / f"{CHANNEL_MAPS}/c/2/0/0/0/0/0").remove()  # written, and lost before the run went on
    explained(output, [1, 0])
    repair(output, verify(output))
    carry_out(content(cohort, output))
    assert verify(output) == [] and computed(output) == computed(at_once)


@pytest.mark.parametrize("name", [CHANNEL_MAPS, CHANNEL_SHARE])
def test_damage_is_found_and_mended_to_the_byte(cohort: Sequences, output: Location, name: str) -> None:
    carry_out(content(cohort, output))
    before = stored(output)
    key = next(key for key in before if key.startswith(f"{name}/c/1/"))
    (output / NAME / key).write(before[key][:-1])
    found = verify(output)
    assert [damage.where for damage in found] == [key]
    repair(output, found)
    assert verify(output) == [] and stored(output) == before


def test_who_is_withdrawn_leaves_them(cohort: Sequences, output: Location) -> None:
    carry_out(content(cohort, output), report=True)
    before = open_store(output).load()
    withdraw(output, "patient-2")
    assert verify(output) == []
    after, rest = open_store(output).load(), [row for row in range(10) if row not in (4, 5)]
    for name in (CHANNEL_MAPS, CHANNEL_SHARE):
        assert after[name][4:6].isnull().all()
        assert after[name][rest].equals(before[name][rest])


def test_added_explainers_have_them_too(cohort: Sequences, output: Location, tmp_path: Path) -> None:
    carry_out(content(cohort, output, explainers=ASKED[:2]))
    before = computed(output)
    carry_out(content(cohort, output), extend=True)
    assert verify(output) == []
    assert computed(output).items() >= before.items()
    at_once = Location(url=str(tmp_path / "at-once"))
    carry_out(content(cohort, at_once))
    for name in (CHANNEL_MAPS, CHANNEL_SHARE):
        assert open_store(output)[name].load().equals(open_store(at_once)[name].load())


def test_a_run_onto_an_output_of_the_other_kind_is_refused(cohort: Sequences, output: Location) -> None:
    carry_out(content(cohort, output, explainers=["saliency"]))
    with pytest.raises(ValueError, match="channels: keep → combine"):
        prepared(content(cohort, output, explainers=["saliency"], channels="combine"))


def test_only_a_plan_that_keeps_channels_has_another_digest(cohort: Sequences, output: Location) -> None:
    plan = prepared(cohort.content(output, explainers=["saliency"])).plan
    said = plan.model_copy(update={"channels": "combine"})
    kept = plan.model_copy(update={"channels": "keep"})
    assert said.part_digests == plan.part_digests != kept.part_digests
    without = plan.model_dump(mode="json", exclude={"channels"})
    assert Plan.model_validate(copy.deepcopy(without), strict=False).part_digests == plan.part_digests


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"explainers": ["gradcam", "rise"]}, r"channels: keep: gradcam, rise look at all channels at once"),
        ({"channels": "all"}, r"channels: Input should be 'combine' or 'keep'"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    cohort: Sequences, output: Location, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        check(content(cohort, output, **changes))


def test_images_of_one_channel_are_refused(tmp_path: Path, output: Location) -> None:
    grey = Cohort(tmp_path / "grey", range(2))
    with pytest.raises(ValueError, match="the model takes images of one channel"):
        RunConfig.model_validate(grey.content(output, channels="keep"))


def test_mean_shares_are_of_subjects_and_the_largest_comes_first(cohort: Sequences, output: Location) -> None:
    carry_out(content(cohort, output))
    dataset = open_store(output).load()
    dataset[CHANNEL_SHARE][:] = np.array([0.1, 0.3, 0.6])
    dataset[CHANNEL_SHARE][0] = np.array([0.3, 0.3, 0.4])
    dataset[CHANNEL_SHARE].loc[{"explainer": "gradcam"}] = np.nan
    (found,) = mean_shares(dataset, [f"patient-{row // 2}" for row in range(10)])
    assert found.of == "channel" and found.parts == ["channel 2", "channel 1", "channel 0"]
    assert [name for name, _ in found.rows] == ["saliency", "occlusion"]
    first, second, third = found.rows[0][1]
    assert (first.value, second.value, third.value) == pytest.approx((0.58, 0.3, 0.12))
    assert first.low < first.value < first.high <= 0.6 + 1e-6
    assert (second.low, second.high) == pytest.approx((0.3, 0.3))
    named = dataset.assign_coords(channel=["t1", "t2", "flair"]).isel(image_id=1)
    assert shares_in_words(named, 0)[0] == "saliency: flair 60 %, t2 30 %, t1 10 %"
    dataset[CHANNEL_SHARE][:] = np.nan
    assert mean_shares(dataset, ["one"] * 10) == []
