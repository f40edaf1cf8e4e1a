"""Frames as images of their own, through everything that happens to an output."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from nibabel.testing import data_path
from numpy.typing import NDArray

from models.errors import ConfigurationError
from tasks.cohort import reading
from tasks.cohort.config import CohortConfig
from tasks.cohort.pseudonyms import Key
from tasks.cohort.readers import inspect
from tasks.cohort.selection import Selection
from tasks.cohort.survey import survey, which
from tasks.plan import shards as shards_module
from tasks.plan.plan import Plan
from tasks.prepare.replan import Refused
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.store.objects import NAME
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tasks.work import images
from tests.tasks.outputs import NETWORK, carry_out, explained, planned, prepared, promised, squares_model, stored

FRAMES = {"one": 4, "two": 3, "picture": 1}
EXPLAINERS: list[Any] = ["saliency", {"name": "smoothgrad", "samples": 2}]


def drawn(name: str, version: int = 0, frames: int = 0) -> NDArray[np.uint8]:
    """Draw the frames of a file: ``(frame, y, x)``."""
    generator = np.random.default_rng([len(name), ord(name[0]), version])
    return generator.integers(0, 200, (frames or FRAMES[name], 16, 16)).astype(np.uint8)


class Cines:
    """Files of several pages with a table: a mask a frame for `one`, one mask for all of `two`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.model = squares_model(folder, ("a", "b"), NETWORK)
        for name in FRAMES:
            self.draw(name)
        for name, mask in (("one", drawn("one") > 100), ("two", drawn("two")[0] > 100)):
            tifffile.imwrite(folder / f"{name}-mask.tif", mask.astype(np.uint8), photometric="minisblack")
        rows = ["uri,id,label,subject,mask", "one.tif,one,a,,one-mask.tif", "two.tif,two,b,patient-2,two-mask.tif"]
        (folder / "cohort.csv").write_text("\n".join([*rows, "picture.tif,picture,a,,"]) + "\n")

    def draw(self, name: str, version: int = 0, frames: int = 0) -> None:
        tifffile.imwrite(self.folder / f"{name}.tif", drawn(name, version, frames), photometric="minisblack")

    def content(self, output: Location, **changes: Any) -> dict[str, Any]:
        cohort = {"source": str(self.folder / "cohort.csv"), "identifiers": "as given", "frames": "images"}
        return {
            "cohort": cohort | changes.pop("cohort", {}),
            "model": self.model,
            "explainers": EXPLAINERS,
            "batch_size": 3,
            "output": output.model_dump(),
            **changes,
        }


@pytest.fixture
def cines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cines:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    return Cines(tmp_path / "cohort")


def test_each_frame_is_an_image_with_label_mask_and_subject_of_its_file(cines: Cines, output: Location) -> None:
    carry_out(cines.content(output))
    entries, ds = promised(output)[1], open_store(output).load()
    ids = [*(f"one#{n}" for n in range(1, 5)), *(f"two#{n}" for n in range(1, 4)), "picture"]
    assert list(ds.image_id.values) == ids
    assert [(entry.subject, entry.label) for entry in entries] == [
        *[("one", "a")] * 4,  # the file is whom its frames are of, so that they are never taken for four patients
        *[("patient-2", "b")] * 3,
        (None, "a"),
    ]
    assert len({entry.digest for entry in entries}) == 8 and len({entry.mask for entry in entries[:7]}) == 2
    np.testing.assert_array_equal(ds.image.values[:7, 0], np.concatenate([drawn("one"), drawn("two")]))
    np.testing.assert_array_equal(ds.mask.values[:4], drawn("one") > 100)
    np.testing.assert_array_equal(ds.mask.values[4:7], [drawn("two")[0] > 100] * 3)
    assert verify(output) == []


def test_frames_of_a_file_and_its_mask_are_counted_once_a_batch(
    cines: Cines, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepared(cines.content(output))
    counted: list[int] = []
    monkeypatch.setattr(images, "inspect", lambda data: counted.append(len(data)) or inspect(data))
    read = images.read_images(ready.plan, ready.entries, ready.plan.cohort.make_preprocessing(), ready.sources)
    assert len(read) == 8 and len(counted) == 4  # two files, each with a mask


def test_a_frame_is_explained_as_a_file_of_its_own_would_be(cines: Cines, output: Location, tmp_path: Path) -> None:
    carry_out(cines.content(output, explainers=["saliency"]))
    single = tmp_path / "single"
    single.mkdir()
    for number, frame in enumerate([*drawn("one"), *drawn("two"), *drawn("picture")]):
        tifffile.imwrite(single / f"{number}.tif", frame, photometric="minisblack")
    other = Location(url=str(tmp_path / "other"))
    alone = {"source": f"{single}/", "frames": "as stored"}
    carry_out(cines.content(other, cohort=alone, explainers=["saliency"]))
    ds, ds_single = (open_store(one).load() for one in (output, other))
    for name in ("image", "logit", "attribution"):
        assert ds[name].values.tobytes() == ds_single[name].values.tobytes()


def test_workers_in_any_order_and_an_interrupted_run_store_the_same_bytes(cines: Cines, tmp_path: Path) -> None:
    found = []
    for name, before in (("whole", []), ("last first", [1]), ("by two", [0])):
        output = Location(url=str(tmp_path / name))
        content = cines.content(output)
        planned(content)
        explained(output, before)
        carry_out(content)
        found.append(stored(output))
    assert found[0] == found[1] == found[2]


def test_a_changed_file_is_explained_again_frame_by_frame(cines: Cines, output: Location) -> None:
    carry_out(cines.content(output))
    before = open_store(output).load()
    cines.draw("two", version=1, frames=2)
    summary = carry_out(cines.content(output))
    after = open_store(output).load()
    assert (summary.images, summary.explained, summary.vanished) == (8, 8, 1)
    assert after.present.values.tolist() == [1, 1, 1, 1, 1, 1, 0, 1]
    np.testing.assert_array_equal(after.image.values[4:6, 0], drawn("two", 1, 2))
    assert after.attribution.values[:4].tobytes() == before.attribution.values[:4].tobytes()
    assert verify(output) == []


def test_a_file_that_is_lost_or_changed_after_the_plan_is_set_aside_and_tried_again(
    cines: Cines, output: Location
) -> None:
    content = cines.content(output, cohort={"allowed_failures": 1.0})
    planned(content)
    cines.draw("one", version=1)
    (cines.folder / "two.tif").unlink()
    explained(output, [0, 1])
    assert {shard: list(commit.again) for shard, commit in Commit.read(output, [0, 1]).items()} == {
        0: [0, 1, 2, 3],
        1: [0, 1, 2],
    }
    cines.draw("one")
    cines.draw("two")
    whole = Location(url=f"{output.url}-whole")
    for one in (output, whole):
        carry_out(content | {"output": one.model_dump()})
    assert stored(output) == stored(whole)


def test_more_explainers_and_repairs(cines: Cines, output: Location) -> None:
    carry_out(cines.content(output, explainers=["saliency"]))
    carry_out(cines.content(output, explainers=["saliency", "input_x_gradient"]), extend=True)
    before = stored(output)
    for key in before:
        if key.startswith(("attribution/c", "image/c")):
            (output / NAME / key).write(b"damaged")
    found = verify(output)
    assert found
    repair(output, found)
    assert verify(output) == [] and stored(output) == before


@pytest.mark.parametrize(
    ("named", "rows"),
    [("one", [0, 1, 2, 3]), ("patient-2", [4, 5, 6]), ("one#3", [2])],
    ids=["file", "subject", "frame"],
)
@pytest.mark.parametrize("identifiers", ["as given", "pseudonymous"])
def test_a_file_a_subject_or_a_frame_is_withdrawn(
    named: str, rows: list[int], identifiers: str, cines: Cines, output: Location
) -> None:
    content = cines.content(output, cohort={"identifiers": identifiers})
    carry_out(content)
    before = open_store(output).load()
    assert withdraw(output, named).images == tuple(rows)
    carry_out(content)
    after = open_store(output).load()
    rest = [row for row in range(8) if row not in rows]
    assert (after.status.values[rows] == 4).all() and np.isnan(after.image.values[rows]).all()
    assert after.attribution.values[rest].tobytes() == before.attribution.values[rest].tobytes()
    assert len(after.image_id) == 8 and verify(output) == []


def test_frames_and_files_are_selected_by_id(cines: Cines, output: Location) -> None:
    carry_out(cines.content(output), only=Selection(ids=("two#2", "one#4")))
    assert list(open_store(output).image_id.values) == ["one#4", "two#2"]
    carry_out(cines.content(output), only=Selection(ids=("two",)))
    assert sorted(open_store(output).image_id.values) == ["one#4", "two#1", "two#2", "two#3"]
    before = stored(output)
    (output / "commits").remove()
    summary = carry_out(cines.content(output), only=Selection(ids=("picture",)))
    assert (summary.explained, summary.vanished) == (5, 0)
    kept = {key for key in before if key.startswith("attribution/c/0/")}
    assert kept and {key: stored(output)[key] for key in kept} == {key: before[key] for key in kept}
    with pytest.raises(ConfigurationError, match="no image of the cohort is selected"):
        carry_out(cines.content(output), only=Selection(ids=("one#5",)))


def test_pseudonyms_show_which_frames_are_of_one_file_and_lead_back_to_it(cines: Cines, output: Location) -> None:
    content = cines.content(output, cohort={"identifiers": "pseudonymous"})
    ready = prepared(content)
    config, key = ready.plan.cohort, ready.plan.key
    one = key.pseudonym("one")
    assert [entry.id for entry in ready.entries[:4]] == [f"{one}#{number}" for number in range(1, 5)]
    assert {entry.subject for entry in ready.entries[:4]} == {one}
    assert which(config, key, [f"{one}#2", one], ready.entries) == dict.fromkeys(
        [one, f"{one}#2"], (str(cines.folder / "one.tif"),)
    )
    assert ready.cost.images == 8


def test_another_meaning_of_frames_is_another_run(cines: Cines, output: Location) -> None:
    content = cines.content(output)
    carry_out(content)
    digests = Plan.read(output).part_digests
    content["cohort"]["frames"] = "channels"
    with pytest.raises(Refused, match=r"cohort\.frames: images → channels"):
        carry_out(content)
    assert prepared(content | {"output": f"{output.url}-other"}).plan.part_digests != digests


def test_a_file_with_another_number_of_frames_than_the_network_has_channels_is_set_aside(
    cines: Cines, output: Location
) -> None:
    network = NETWORK | {"in_shape": [3, 16, 16]}
    model = squares_model(cines.folder, ("a", "b"), network) | {"channels": 3}
    content = cines.content(output, cohort={"frames": "channels", "allowed_failures": 1.0}, model=model)
    carry_out(content)
    reasons = {entry.id: entry.reason or "" for entry in promised(output)[1]}
    assert "4 channels after preprocessing, but the model takes 3" in reasons["one"]
    assert "1 channels after preprocessing, but the model takes 3" in reasons["picture"]
    assert reasons["two"] == ""
    np.testing.assert_array_equal(open_store(output).image.sel(image_id="two"), drawn("two"))


def test_colours_of_frames_that_are_channels_become_grey_frame_by_frame(cines: Cines, output: Location) -> None:
    for name in ("one", "picture"):
        (cines.folder / f"{name}.tif").unlink()
    colours = np.random.default_rng(8).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    tifffile.imwrite(cines.folder / "colour.tif", colours, photometric="rgb")
    model = squares_model(cines.folder, ("a", "b"), NETWORK | {"in_shape": [3, 16, 16]}) | {"channels": 3}
    as_grey = {"source": f"{cines.folder}/*[or].tif", "frames": "channels", "color": "grey"}
    (cines.folder / "two.tif").rename(cines.folder / "other.tif")
    carry_out(cines.content(output, cohort=as_grey, model=model))
    ds = open_store(output).load()
    np.testing.assert_allclose(
        ds.image.sel(image_id="colour.tif"), colours @ np.array([0.299, 0.587, 0.114]), rtol=1e-5
    )
    np.testing.assert_array_equal(ds.image.sel(image_id="other.tif"), drawn("two"))  # three frames are no three colours


def surveyed(folder: Path, spatial_dims: int, **cohort: Any) -> list[tuple[str, str | None]]:
    (folder / "cohort.csv").write_text("uri,mask\nseries.nii,mask.nii\n")
    config = CohortConfig.model_validate(
        {"source": str(folder / "cohort.csv"), "identifiers": "as given", "frames": "images", **cohort}
    )
    return [(entry.id, entry.reason) for entry in survey(config, spatial_dims, Key.make()).entries]


def test_masks_of_a_series_are_as_many_or_one(tmp_path: Path) -> None:
    (tmp_path / "series.nii").write_bytes((Path(data_path) / "functional.nii").read_bytes())
    for count in (20, 1):
        nibabel.save(nibabel.Nifti1Image(np.zeros((17, 21, 3, count), np.uint8), np.eye(4)), tmp_path / "mask.nii")
        assert surveyed(tmp_path, 3) == [(f"series.nii#{number}", None) for number in range(1, 21)]
    nibabel.save(nibabel.Nifti1Image(np.zeros((17, 21, 3, 4), np.uint8), np.eye(4)), tmp_path / "mask.nii")
    ((id, reason),) = surveyed(tmp_path, 3)
    assert id == "series.nii" and "its mask has 4 frames, and the image 20" in (reason or "")


def test_bounds_are_those_of_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "series.nii").write_bytes((Path(data_path) / "functional.nii").read_bytes())
    nibabel.save(nibabel.Nifti1Image(np.zeros((17, 21, 3), np.uint8), np.eye(4)), tmp_path / "mask.nii")
    size = 4 * 17 * 21 * 3
    assert len(surveyed(tmp_path, 3, largest_image=size)) == 20
    ((_, reason),) = surveyed(tmp_path, 3, largest_image=size - 1)
    assert "cohort.largest_image" in (reason or "")
    monkeypatch.setattr(reading, "MOST_FRAMES", 19)
    assert surveyed(tmp_path, 3) == [("series.nii", "the file declares 20 frames: 1 to 19 are read")]


def test_a_name_like_that_of_a_frame_is_refused(cines: Cines, output: Location) -> None:
    table = cines.folder / "cohort.csv"
    table.write_text(table.read_text().replace("picture.tif,picture", "picture.tif,one#2"))
    with pytest.raises(ConfigurationError, match="the name of another one's frame"):
        prepared(cines.content(output))
