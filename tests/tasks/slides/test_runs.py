"""Runs over slides: what is stored, and that it is the same whoever computes it and whatever befalls the files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import xarray as xr
from safetensors.torch import save_file

import cohortlens
from flows.config import RunConfig
from models.errors import ConfigurationError
from models.flags import ImageFlag
from models.networks.bag_of_slices import BagOfSlices
from tasks.cohort.slides.bag import Bag, make_bag
from tasks.cohort.slides.tissue import SLIDE_BYTES
from tasks.cohort.sources import Source
from tasks.plan import shards as shards_module
from tasks.prepare import memory
from tasks.storage.location import Location
from tasks.storage.ranges import RangedFile
from tasks.store.template import EXPLAINED, QUARANTINED, WITHDRAWN, open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tasks.work import slides as slides_module
from tasks.work.finish import finish
from tasks.work.misfits import NotAsPlanned
from tasks.work.slides import read_bag
from tests.tasks.outputs import carry_out, explained, planned, prepared, promised, stored
from tests.tasks.slides.made import TISSUE, glass, with_tissue, write_dicom, write_tiff

MARKER = (60, 60, 200)
IDS = ["planted", "small", "white", "series", "damaged"]
Content = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 2)


def write_cohort(folder: Path) -> None:
    folder.mkdir()
    planted = with_tissue(64, 64, 64, 128)
    planted[96:128, 128:160] = MARKER
    write_tiff(folder / "planted.tif", planted)
    write_tiff(folder / "small.tif", with_tissue(0, 32, 32, 64))
    write_tiff(folder / "white.tif", glass(256, 384))
    write_dicom(folder / "series", with_tissue(128, 128, 64, 128))
    (folder / "damaged.tif").write_bytes(b"II*\0" + bytes(60))
    uris = ["planted.tif", "small.tif", "white.tif", "series/", "damaged.tif"]
    subjects = [f"patient-{number}" for number in range(len(IDS))]
    pd.DataFrame({"id": IDS, "uri": uris, "subject": subjects}).to_csv(folder / "cohort.csv", index=False)


def write_weights(path: Path) -> None:
    """Write a network whose attention is on tiles that look like the marker."""
    torch.manual_seed(0)
    network = BagOfSlices(3, 2).eval()
    tiles = [torch.tensor(colour).view(3, 1, 1).expand(3, 32, 32) / 255 for colour in (MARKER, TISSUE, (255,) * 3)]
    first, _, last = network.mil.attention
    with torch.no_grad():
        marker, tissue, white = network.mil.net(torch.stack(tiles))
        towards = marker - (tissue + white) / 2
        least, others = towards @ marker, torch.maximum(towards @ tissue, towards @ white)
        first.weight.zero_(), last.weight.zero_()
        first.weight[0] = 6 * towards / (least - others)
        first.bias[0] = -3 * (least + others) / (least - others)
        last.weight[0, 0] = 8
    save_file(network.state_dict(), path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_cohort(folder / "cohort")
    write_weights(folder / "weights.safetensors")
    return folder


def content_of(made: Path, cohort: Path, output: Path, **changes: Any) -> dict[str, Any]:
    scale = {"_target_": "monai.transforms.ScaleIntensityRange", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}
    network = {"_target_": "models.networks.bag_of_slices.BagOfSlices", "in_channels": 3, "num_classes": 2}
    return {
        "cohort": {
            "source": str(cohort / "cohort.csv"),
            "identifiers": "as given",
            "allowed_failures": 1.0,
            "slides": {"microns_per_pixel": 0.5, "tile": 32, "tiles": 8},
            "preprocessing": [scale],
        },
        "model": {
            "network": network,
            "weights": str(made / "weights.safetensors"),
            "classes": ["a", "b"],
            "channels": 3,
            "input_shape": [8, 32, 32],
        },
        "explainers": ["mil_attention"],
        "compute": {"batch_size": 2},
        "output": str(output),
        **changes,
    }


@pytest.fixture(scope="module")
def undisturbed(made: Path) -> Location:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "_LARGEST_SHARD", 2)
        carry_out(content_of(made, made / "cohort", made / "out"), report=True)
    return Location(url=str(made / "out"))


@pytest.fixture
def copied(made: Path, undisturbed: Location, tmp_path: Path) -> Path:
    """Copy the cohort, whose files are then others for a stamp, and the output."""
    shutil.copytree(made / "cohort", tmp_path / "cohort", copy_function=shutil.copyfile)
    shutil.copytree(undisturbed.path, tmp_path / "out")
    return tmp_path


@pytest.fixture(scope="module")
def store(undisturbed: Location) -> xr.Dataset:
    return open_store(undisturbed).load()


def test_what_becomes_of_each_slide(store: xr.Dataset, undisturbed: Location) -> None:
    assert store["image_id"].values.tolist() == IDS
    assert store["status"].values.tolist() == [EXPLAINED] * 4 + [QUARANTINED]
    has_tissue = (store["image_flags"].values & ImageFlag.NO_TISSUE) == 0
    assert has_tissue.tolist() == [True, True, False, True, True]
    assert np.isfinite(store["logit"].values[:4]).all()
    damaged = promised(undisturbed)[1][-1]
    assert damaged.reason is not None and damaged.reason.startswith("damaged or unsupported slide in TIFF")
    assert verify(undisturbed) == []


def test_tiles_are_stored_with_their_places(store: xr.Dataset) -> None:
    position = store["tile_position"]
    assert position.dims == ("image_id", "z", "corner")
    assert position.sel(image_id="planted").values.tolist() == [[y, x] for y in (64, 96) for x in (64, 96, 128, 160)]
    assert position.sel(image_id="series").values.tolist() == [[y, x] for y in (128, 160) for x in (128, 160, 192, 224)]
    assert position.sel(image_id="small").values.tolist() == [[0, 32], [0, 64], *[[-1, -1]] * 6]
    assert (store["tile_tissue"].sel(image_id="series") == 1).all()
    assert store["slide_size"].values.tolist() == [[256, 384]] * 4 + [[-1, -1]]
    overview = store["slide_overview"].sel(image_id="planted").values
    assert overview[:, round(112 * 4 / 3), round(144 * 4 / 3)].tolist() == list(MARKER)
    assert (overview[:, round(256 * 4 / 3) + 1 :] == 255).all()


def test_attention_is_on_the_tile_that_was_planted(store: xr.Dataset) -> None:
    weights = store["attribution"].sel(image_id="planted", explainer="mil_attention")[0, :, 0, 0].values
    assert weights.sum() == pytest.approx(1, rel=0.02)
    found = store["tile_position"].sel(image_id="planted").values[weights.argmax()].tolist()
    assert found == [96, 128] and weights.max() > 0.9


def test_nothing_of_the_patient_is_in_the_output(undisturbed: Location) -> None:
    everything = b"".join((undisturbed / name).read() for name in undisturbed.sizes())
    assert b"Doe" not in everything and str(undisturbed.path).encode() not in everything.replace(b"/out", b"")
    page = (undisturbed / "report/index.html").read().decode()
    assert "no_tissue" in page.replace("no tissue", "no_tissue") and "on white tiles" in page


def test_the_bytes_are_the_same_in_any_order_and_by_any_worker(
    made: Path, undisturbed: Location, tmp_path: Path
) -> None:
    content = content_of(made, made / "cohort", tmp_path / "out")
    ready = planned(content)
    output = Location(url=str(tmp_path / "out"))
    for shard in (2, 0, 1):
        explained(output, [shard], ready.sources)  # by a worker that has just started
    finish(output)
    assert _computed(output) == _computed(undisturbed)


def _computed(output: Location) -> dict[str, bytes]:
    return {key: data for key, data in stored(output).items() if "/c/" in key and not key.startswith("explainer/")}


def _plan_elsewhere(made: Path, copied: Path) -> tuple[dict[str, Any], Any, Location]:
    content = content_of(made, copied / "cohort", copied / "again")
    return content, planned(content), Location(url=str(copied / "again"))


def test_a_slide_that_changed_waits_for_the_next_run(made: Path, undisturbed: Location, copied: Path) -> None:
    content, ready, output = _plan_elsewhere(made, copied)
    slide = copied / "cohort" / "planted.tif"
    before = slide.read_bytes()
    write_tiff(slide, with_tissue(0, 0, 64, 64))
    explained(output, range(3), ready.sources)
    finish(output)
    assert promised(output)[1][0].reason == "the slide changed after the run was planned: run again"
    slide.write_bytes(before)
    carry_out(content)
    assert _computed(output) == _computed(undisturbed)


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[RangedFile]:
    """The files whose whole content is read."""
    found: list[RangedFile] = []
    digest = RangedFile.digest
    monkeypatch.setattr(RangedFile, "digest", lambda file: (found.append(file), digest(file))[1])
    return found


def _read(undisturbed: Location, path: Path) -> Bag:
    plan, entries = promised(undisturbed)
    return read_bag(plan, entries[IDS.index("small")], Source((str(path),)))


def test_the_file_that_was_surveyed_is_not_digested_again(
    made: Path, undisturbed: Location, digested: list[RangedFile]
) -> None:
    assert _read(undisturbed, made / "cohort" / "small.tif").has_tissue and digested == []


def test_a_file_of_another_name_or_time_is_the_same_if_its_digest_is(
    made: Path, undisturbed: Location, copied: Path, digested: list[RangedFile]
) -> None:
    one = _read(undisturbed, made / "cohort" / "small.tif")
    other = _read(undisturbed, copied / "cohort" / "small.tif")
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert len(digested) == 1


def test_what_a_link_leads_to_is_digested(
    made: Path, undisturbed: Location, copied: Path, digested: list[RangedFile]
) -> None:
    link = copied / "cohort" / "link.tif"
    link.symlink_to(made / "cohort" / "small.tif")
    assert _read(undisturbed, link).has_tissue and len(digested) == 1
    assert Location(url=str(link)).stamp() == Location(url=str(made / "cohort" / "small.tif")).stamp()


def test_another_file_of_the_same_size_and_time_is_not_as_planned(
    made: Path, undisturbed: Location, copied: Path
) -> None:
    before, other = made / "cohort" / "small.tif", copied / "cohort" / "small.tif"
    write_tiff(other, with_tissue(0, 64, 32, 64))
    os.utime(other, ns=(before.stat().st_atime_ns, before.stat().st_mtime_ns))
    assert Location(url=str(before)).stamp() == Location(url=str(other)).stamp()
    with pytest.raises(NotAsPlanned, match="changed after the run was planned"):
        _read(undisturbed, other)


def test_a_slide_that_changes_while_it_is_read_is_not_as_planned(
    undisturbed: Location, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = copied / "cohort" / "small.tif"

    def disturbed(*arguments: Any) -> Bag:
        os.utime(slide, (1, 1))
        return make_bag(*arguments)

    monkeypatch.setattr(slides_module, "make_bag", disturbed)
    with pytest.raises(NotAsPlanned, match="changed after the run was planned"):
        _read(undisturbed, slide)


def test_a_lost_slide_is_not_as_planned(undisturbed: Location, copied: Path) -> None:
    (copied / "cohort" / "small.tif").unlink()
    with pytest.raises(NotAsPlanned, match="cannot be opened \\(FileNotFoundError\\)"):
        _read(undisturbed, copied / "cohort" / "small.tif")


def test_explainers_are_added_and_a_subject_is_withdrawn(made: Path, copied: Path) -> None:
    output = Location(url=str(copied / "out"))
    content = content_of(made, made / "cohort", copied / "out", explainers=["mil_attention", "saliency"])
    before = _computed(output)
    carry_out(content, extend=True)
    after = _computed(output)
    assert before.items() <= after.items()
    saliency = open_store(output)["attribution"].sel(explainer="saliency")
    assert np.isfinite(saliency.values[:4]).all()
    withdraw(output, "patient-0")
    gone = open_store(output).load().isel(image_id=0)
    assert int(gone["status"]) == WITHDRAWN and (gone["tile_position"] == -1).all()
    assert (gone["slide_overview"] == 255).all() and np.isnan(gone["tile_tissue"]).all()
    assert verify(output) == []


def test_the_forecast_counts_a_bag_and_no_file(undisturbed: Location) -> None:
    files, decoding = memory.reading(*promised(undisturbed))
    assert files == 0 and decoding == memory.DECODING * 4 * 3 * 8 * 32 * 32 + SLIDE_BYTES


def test_a_map_is_written_as_a_pyramid(undisturbed: Location, store: xr.Dataset, tmp_path: Path) -> None:
    cohortlens.write_slide_map(undisturbed.url, "planted", tmp_path / "map.ome.tif")
    weights = store["attribution"].sel(image_id="planted").mean(("y", "x"))[0].values
    with tifffile.TiffFile(tmp_path / "map.ome.tif") as file:
        assert file.is_ome and 'PhysicalSizeX="1.0"' in (file.ome_metadata or "")
        written = file.asarray().reshape(128, 192)
    expected = np.full((128, 192), np.nan, np.float32)
    for weight, (y, x) in zip(weights[0], store["tile_position"].sel(image_id="planted").values, strict=True):
        expected[y // 2 : y // 2 + 16, x // 2 : x // 2 + 16] = weight
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize(("id", "target", "reason"), [("nobody", 0, "holds no slide"), ("damaged", 0, "holds no slide"),
                                                      ("planted", 3, "no target 3")])  # fmt: skip
def test_a_map_that_is_not_there_is_not_written(
    undisturbed: Location, tmp_path: Path, id: str, target: int, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        cohortlens.write_slide_map(undisturbed.url, id, tmp_path / "map.tif", target=target)


def _changed(content: dict[str, Any], section: str, **fields: Any) -> dict[str, Any]:
    return content | {section: content[section] | fields}


@pytest.mark.parametrize(
    ("section", "fields", "reason"),
    [
        ("model", {"input_shape": [9, 32, 32]}, r"a bag of 8 tiles .*\[8, 32, 32\]"),
        ("model", {"input_shape": [32, 32]}, "a bag of 8 tiles"),
        ("cohort", {"largest_image": "1KiB"}, "take 98304 bytes"),
        ("cohort", {"axes": "monai"}, r"\(tile, row, column\)"),
        ("cohort", {"slides": {"tile": 32}}, "give one of"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    made: Path, section: str, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises((ConfigurationError, ValueError), match=reason):
        RunConfig.model_validate(_changed(content_of(made, made / "cohort", made / "none"), section, **fields))


def test_a_run_with_other_tiles_is_another_run(made: Path, undisturbed: Location) -> None:
    content = content_of(made, made / "cohort", Path(undisturbed.path))
    other = _changed(content, "cohort", slides={"level": 0, "tile": 32, "tiles": 8})
    with pytest.raises(ConfigurationError, match=r"cohort\.slides"):
        prepared(other)


def test_pictures_that_raise_a_class_are_refused(made: Path) -> None:
    asked = content_of(made, made / "cohort", made / "none", results=["class_visualisation"])
    with pytest.raises(ConfigurationError, match=r"class_visualisation: with cohort\.slides an image is a bag"):
        prepared(asked)


def test_masks_of_slides_are_refused(made: Path, copied: Path) -> None:
    table = pd.read_csv(copied / "cohort" / "cohort.csv")
    table.assign(mask="white.tif").to_csv(copied / "cohort" / "cohort.csv", index=False)
    with pytest.raises(ConfigurationError, match="masks, which slides cannot have"):
        prepared(content_of(made, copied / "cohort", copied / "none"))
