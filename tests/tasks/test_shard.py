"""One process delivers shards, to a local folder and to S3."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import zarr
from numcodecs.bitround import BitRound

from models.engine import Engine, Explanation
from models.explainers.gradcam import GradCAM
from models.network import Network
from models.prediction import NO_MASK
from models.questions import Answer
from tasks.report import write_report
from tasks.storage.location import Location
from tasks.store import objects, template
from tasks.store.commit import delivered, stamps
from tasks.store.rows import round_mantissa
from tasks.upkeep.verify import verify
from tasks.work.engines import Engines
from tasks.work.finish import Incomplete, finish, summarise
from tasks.work.prefetch import prefetch
from tests.tasks.conftest import Planned
from tests.tasks.outputs import explained


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return (Location(url=str(tmp_path)) if request.param == "local" else request.getfixturevalue("bucket")) / "out"


def opened(output: Location) -> xr.Dataset:
    location = output / objects.NAME
    return xr.open_zarr(location.url, storage_options=location.storage_options or None)


def test_a_delivered_cohort_holds_what_the_engine_says_and_verifies(
    output: Location, planned: Planned, slices: Path
) -> None:
    plan = planned(output)
    assert explained(output, range(len(plan.shards))) == 39
    summary = finish(output)
    assert (summary.explained, summary.quarantined, summary.failed, summary.pending) == (36, 3, 0, 0)
    assert verify(output) == []
    dataset = opened(output)
    table = pd.read_csv(slices)
    assert list(dataset.image_id.values) == list(table["id"])
    assert list(dataset.label.values[:36]) == list(table["label"][:36])
    assert list(dataset.explainer.values) == list(plan.maps)
    assert dataset.status.values.tolist() == [1] * 36 + [2] * 3
    assert np.isnan(dataset.attribution.values[36:]).all()
    assert np.isfinite(dataset.attribution.values[:36]).all()

    # Explained again from the stored images alone, standardised by hand, one at a time.
    (engine,) = Engines().of(output, plan).parts
    for row in (0, 1, 17, 35):
        image = dataset.image.values[row].astype(np.float64)
        standard = torch.tensor((image - image.mean()) / image.std(), dtype=torch.float32)
        expected = engine.explain(standard[None], ("x",))
        found = dataset.isel(image_id=row)
        assert np.allclose(found.logit.values, expected.logits[0], atol=1e-3)
        assert np.allclose(found.probability.values.sum(), 1, atol=1e-6)
        for index in range(4):
            ours, theirs = found.attribution.values[0, index], expected.maps[0, 0, index].detach().numpy()
            assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)


def test_masks_and_affines_are_on_the_models_grid(tmp_path: Path, planned: Planned) -> None:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output)
    explained(output, range(len(plan.shards)))
    finish(output)
    dataset = opened(output)
    labels = dataset.label.values[:36]
    has_lesion = (dataset.mask.values[:36] == 1).any(axis=(1, 2))
    assert has_lesion.tolist() == [label == "lesion" for label in labels]
    assert (dataset.mask.values[36:] == NO_MASK).all()
    # DICOM and NIfTI carry the template's geometry, PNG none.
    known = np.isfinite(dataset.affine.values).all(axis=(1, 2))
    assert known[:36].tolist() == [index % 3 != 2 for index in range(36)]
    centre = dataset.affine.values[0] @ [0, 56, 48, 1]
    assert np.abs(centre[:2] - [0, -18]).max() < 4  # the middle of the head, in MNI mm


def test_a_shard_with_a_valid_commit_is_never_computed_again(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output)
    asked = []
    explain = Engine.explain
    monkeypatch.setattr(
        Engine, "explain", lambda self, batch, *args: asked.append(len(batch)) or explain(self, batch, *args)
    )
    explained(output, range(1, 3))
    assert sum(asked) == 39 - plan.images_per_shard  # what is damaged keeps its place
    assert sorted(stamps(output)) == [1, 2]
    with pytest.raises(Incomplete, match="1 of 3 shards"):
        finish(output)
    assert summarise(output).pending == plan.images_per_shard
    asked.clear()
    assert explained(output, range(3)) == 39
    assert sum(asked) == plan.images_per_shard
    asked.clear()
    (tmp_path / "out/commits/000001.json").write_text("{ damaged")
    explained(output, range(3))
    assert sum(asked) == plan.images_per_shard
    assert sorted(delivered(output, plan)) == [0, 1, 2]


def test_two_runs_of_one_plan_store_the_same_bytes(tmp_path: Path, planned: Planned) -> None:
    contents = []
    for order in (range(3), reversed(range(3))):
        output = Location(url=str(tmp_path / "out"))
        plan = planned(output)
        for index in order:
            explained(output, range(index, index + 1))
        finish(output)
        files = sorted((tmp_path / "out" / objects.NAME).rglob("*"))
        contents.append({str(path): path.read_bytes() for path in files if path.is_file()})
        (tmp_path / "out").rename(tmp_path / f"done-{len(contents)}")
    assert plan.images_per_shard == 16
    assert contents[0] == contents[1]


def test_a_changed_file_is_quarantined_and_never_explained_under_the_old_name(
    tmp_path: Path, planned: Planned, slices: Path
) -> None:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output)
    victim = slices.parent / "phantom-00002.png"
    before = victim.read_bytes()
    try:
        victim.write_bytes((slices.parent / "phantom-00005.png").read_bytes())
        explained(output, range(len(plan.shards)))
    finally:
        victim.write_bytes(before)
    summary = finish(output)
    assert summary.quarantined == 4
    assert opened(output).status.values[2] == template.QUARANTINED
    assert "changed after the run was planned" in delivered(output, plan)[0].reasons["phantom-00002"]


def test_an_image_that_does_not_fit_the_model_is_quarantined_with_both_shapes(tmp_path: Path, planned: Planned) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = {"source": str(tmp_path / "cohort")}
    (tmp_path / "cohort").mkdir()
    np.save(tmp_path / "cohort/small.npy", np.random.default_rng(0).random((50, 40)))
    np.save(tmp_path / "cohort/nan.npy", np.full((112, 96), np.nan))
    np.save(tmp_path / "cohort/right.npy", np.random.default_rng(0).random((112, 96)))
    plan = planned(output, cohort=cohort)
    explained(output, range(len(plan.shards)))
    reasons = sorted(delivered(output, plan)[0].reasons.values())
    assert finish(output).explained == 1
    assert "10752 pixels are NaN or infinite" in reasons[0]
    assert "shape (50, 40) after preprocessing" in reasons[1]
    assert "(112, 96)" in reasons[1]


def test_a_prediction_that_is_not_finite_fails_that_image_alone(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output)
    explain = Engine.explain

    def one_bad(self: Engine, *args: Any) -> Explanation:
        explanation = explain(self, *args)
        explanation.logits[1, 0] = torch.inf
        return explanation

    monkeypatch.setattr(Engine, "explain", one_bad)
    explained(output, range(1))
    commit = delivered(output, plan)[0]
    assert [row for row, code in enumerate(commit.status) if code == template.FAILED] == [1, 9]
    assert "the prediction is not finite" in commit.reasons["phantom-00001"]


def test_a_map_that_is_not_finite_is_flagged_and_its_image_explained(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output, explainers=["saliency", {"name": "gradcam", "label": "cam"}])
    attribute = GradCAM.attribute

    def bad(self: GradCAM, answer: Answer, network: Network) -> torch.Tensor:
        maps = attribute(self, answer, network)
        maps[1, 5, 5] = torch.inf
        maps[2:4] = 0
        return maps

    monkeypatch.setattr(GradCAM, "attribute", bad)
    explained(output, range(len(plan.shards)))
    commit = delivered(output, plan)[0]
    assert commit.reasons == {}
    assert (commit.flags["map blank"], commit.flags["map not finite"]) == (4, 2)
    summary = finish(output)
    # Batches of 8: rows 1 and 9 of two shards, and row 1 of the last, whose only batch holds 4 readable images.
    assert (summary.explained, summary.failed) == (36, 0)
    assert (summary.flags["map blank"], summary.flags["map not finite"]) == (10, 5)
    dataset = opened(output)
    flagged = (dataset.image_flags.values > 0) | (dataset.map_flags.values > 0).any((1, 2))
    assert summary.flagged == flagged.sum() >= 15
    assert dataset.map_flags.sel(explainer="cam").values[:4, 0].tolist() == [0, 2, 1, 1]
    assert not dataset.map_flags.sel(explainer="saliency").values.any()
    maps = dataset.attribution.sel(explainer="cam").values[:4, 0]
    assert np.isnan(maps[1]).all() and not maps[2:].any() and np.isfinite(maps[0]).all()
    assert np.isfinite(dataset.attribution.sel(explainer="saliency").values[:36]).all()
    page = write_report(output).read().decode()
    assert "map blank</b> (10 images)" in page and "map not finite</b> (5 images)" in page
    assert "map blank: cam" in page
    cards = [card for card in page.split('<article class="case"')[1:] if "map not finite: cam" in card]
    assert cards and not any("<figcaption>cam</figcaption>" in card for card in cards)


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_verify_finds_every_damaged_object(tmp_path: Path, planned: Planned, damage: str) -> None:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output)
    explained(output, range(len(plan.shards)))
    finish(output)
    keys = list(delivered(output, plan)[1].objects)
    assert len(keys) == 7 + 2 * len(plan.maps)  # seven variables, and two objects an explainer
    for key in keys:
        path = tmp_path / "out" / objects.NAME / key
        before = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes(before[:-1] if damage == "truncate" else bytes([before[0] ^ 1]) + before[1:])
        assert [found.where for found in verify(output)] == [key]
        path.write_bytes(before)
    assert verify(output) == []
    (tmp_path / "out/commits/000002.json").unlink()
    assert [(found.what, found.where) for found in verify(output)] == [("shard", "2")]


def test_reading_runs_ahead_by_its_depth_and_no_further() -> None:
    taken = []

    def items():  # type: ignore[no-untyped-def]
        for number in range(20):
            taken.append(number)
            yield number

    items_ahead = prefetch(items(), depth=2)
    assert next(items_ahead) == 0
    time.sleep(0.3)
    assert len(taken) <= 4  # one handed over, two waiting, one in the reader's hand
    assert list(items_ahead) == list(range(1, 20))


def test_an_error_while_reading_reaches_who_explains_and_no_thread_stays() -> None:
    def items():  # type: ignore[no-untyped-def]
        yield 1
        raise OSError("the disk is gone")

    items_ahead = prefetch(items(), depth=2)
    assert next(items_ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items_ahead)
    abandoned = prefetch(iter(range(100)), depth=1)
    next(abandoned)
    abandoned.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "read"]


@pytest.mark.parametrize("bits", [5, 7, 12])
def test_rounding_is_that_of_numcodecs(bits: int) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32)
    values = words.view(np.float32)
    values = values[np.isfinite(values)]
    expected = BitRound(bits).encode(values)
    assert round_mantissa(values, bits).view(np.uint32).tolist() == expected.view(np.uint32).tolist()


def test_rounding_keeps_seven_bits_and_what_is_not_finite() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * np.float32(1e-3)
    values[:4] = [np.nan, np.inf, -np.inf, 0]
    rounded = round_mantissa(values, 7)
    assert np.isnan(rounded[0])
    assert rounded[1:4].tolist() == [np.inf, -np.inf, 0]
    error = np.abs(rounded[4:] - values[4:]) / np.abs(values[4:])
    assert 2**-9 < error.max() <= 2**-8
    assert abs(np.mean((rounded[4:] - values[4:]) / np.abs(values[4:]))) < 1e-4
    assert not (rounded[4:].view(np.uint32) & 0xFFFF).any()


def test_the_store_is_plain_zarr_3_with_whole_shards(tmp_path: Path, planned: Planned) -> None:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output)
    explained(output, range(len(plan.shards)))
    finish(output)
    array = zarr.open_group(str(tmp_path / "out" / objects.NAME), mode="r")["attribution"]
    assert isinstance(array, zarr.Array)
    assert array.metadata.zarr_format == 3
    assert array.shards == (16, 1, 1, 112, 96)
    assert array.chunks == (1, 1, 1, 112, 96)
    assert array.dtype == np.float32
    assert np.isnan(array.fill_value)
    dataset = opened(output)
    assert all(variable.attrs.get("long_name") for variable in dataset.variables.values())
    assert all("units" in variable.attrs for variable in dataset.variables.values())
    assert dataset.status.attrs["flag_meanings"].split()[dataset.status.values[0]] == "explained"
