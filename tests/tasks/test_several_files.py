"""Runs of images of several files: resumed, mended, extended and withdrawn as those of one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from models.errors import ConfigurationError
from models.flags import ImageFlag
from tasks.cohort.entry import Fact, decoded_together
from tasks.cohort.entry import Source as EntrySource
from tasks.plan import shards as shards_module
from tasks.prepare.replan import Refused
from tasks.storage.location import Location
from tasks.store.commit import Commit, stamps
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
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

SEQUENCES = ["t1", "t2"]


class Pairs(Cohort):
    """Images of two files each, which are functions of number, sequence and version; masks belong to the first."""

    def __init__(self, folder: Path, numbers: Iterable[int] = ()) -> None:
        super().__init__(folder)
        self.model = squares_model(folder, ("a", "b"), NETWORK | {"in_shape": [2, 16, 16]}) | {"channels": 2}
        self.add(numbers)

    def add(self, numbers: Iterable[int], version: int = 0) -> None:
        for number in numbers:
            for place, sequence in enumerate(SEQUENCES):
                self.write(number, sequence, place, version)
            np.save(self.folder / f"{number}-mask.npy", (self.pixels(number, 0) > 1).astype(np.uint8))
            self.numbers += [number] * (number not in self.numbers)
        self._list()

    def write(self, number: int, sequence: str, place: int, version: int = 0) -> None:
        np.save(self.folder / f"{number}_{sequence}.npy", self.pixels(number, place, version))

    def pixels(self, number: int, place: int, version: int = 0) -> Any:
        return np.random.default_rng([number, place, version]).normal(size=(16, 16)).astype(np.float32)

    def _list(self) -> None:
        rows = [
            {
                "id": f"id-{number}",
                "uri": "|".join(f"{number}_{sequence}.npy" for sequence in SEQUENCES[:: 1 - 2 * (number % 2)]),
                "mask": f"{number}-mask.npy",
                "subject": f"patient-{number // 2}",
            }
            for number in self.numbers
        ]
        pd.DataFrame(rows).to_csv(self.folder / "manifest.csv", index=False)

    def content(self, output: Location, **changes: Any) -> dict[str, Any]:
        content = super().content(output, **changes)
        return content | {"cohort": {**content["cohort"], "sequences": SEQUENCES} | changes.get("cohort", {})}


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    return Pairs(tmp_path / "cohort", range(6))


def reasons(output: Location) -> list[str]:
    """Why images were set aside, by the survey or when they were read."""
    commits = Commit.read(output, stamps(output)).values()
    surveyed = [entry.reason for entry in promised(output)[1] if entry.reason]
    return surveyed + [reason for commit in commits for reason in commit.reasons.values() if reason not in surveyed]


def test_files_are_the_channels_in_the_order_of_the_network(cohort: Pairs, output: Location) -> None:
    carry_out(cohort.content(output))
    dataset = open_store(output).load()
    assert dataset.channel.values.tolist() == SEQUENCES and dataset.attrs["channel_names"] == SEQUENCES
    for row, number in enumerate(cohort.numbers):
        for place, sequence in enumerate(SEQUENCES):
            np.testing.assert_array_equal(dataset.image.sel(channel=sequence)[row], cohort.pixels(number, place))
    assert (dataset.mask.values == np.stack([cohort.pixels(number, 0) > 1 for number in cohort.numbers])).all()
    names = [[source.name for source in entry.sources] for entry in promised(output)[1]]
    assert names == [["t1", "t2", ""]] * 6
    assert verify(output) == []


def test_another_worker_in_another_order_stores_the_same_bytes(cohort: Pairs, tmp_path: Path) -> None:
    one, another = (Location(url=str(tmp_path / name)) for name in ("one", "another"))
    carry_out(cohort.content(one))
    plan = planned(cohort.content(another)).plan
    for shard in reversed(range(len(plan.shards))):
        explained(another, [shard])
    finish(another)
    assert stored(another) == stored(one)


def test_an_image_is_done_again_if_one_of_its_files_has_changed(cohort: Pairs, output: Location) -> None:
    carry_out(cohort.content(output))
    before = open_store(output).load()
    cohort.write(3, "t2", 1, version=1)
    ready = prepared(cohort.content(output))
    assert ready.changes and (ready.changes.changed, ready.changes.new, ready.changes.vanished) == (1, 0, 0)
    carry_out(cohort.content(output))
    after = open_store(output).load()
    for name in ("image", "logit", "attribution"):
        changed = [not np.array_equal(*pair) for pair in zip(before[name].values, after[name].values, strict=True)]
        assert changed == [number == 3 for number in range(6)]
    np.testing.assert_array_equal(before.image.sel(channel="t1"), after.image.sel(channel="t1"))
    assert verify(output) == []


def test_a_file_that_is_lost_after_the_plan_is_told_and_explained_when_it_is_back(
    cohort: Pairs, output: Location, tmp_path: Path
) -> None:
    undisturbed = Location(url=str(tmp_path / "undisturbed"))
    carry_out(cohort.content(undisturbed))
    ready = planned(cohort.content(output))
    (cohort.folder / "2_t2.npy").rename(tmp_path / "kept")
    explained(output, range(len(ready.plan.shards)), ready.sources)
    finish(output)
    assert reasons(output) == ["its t2: a file of the image cannot be opened (FileNotFoundError)"]
    (tmp_path / "kept").rename(cohort.folder / "2_t2.npy")
    assert carry_out(cohort.content(output)).explained == 6
    assert stored(output) == stored(undisturbed)


def test_an_image_that_lacks_a_file_is_explained_when_it_has_it(
    cohort: Pairs, output: Location, tmp_path: Path
) -> None:
    (cohort.folder / "2_t2.npy").rename(tmp_path / "kept")
    assert carry_out(cohort.content(output)).quarantined == 1
    assert [reason.partition(":")[0] for reason in reasons(output)] == ["its t2"]
    (tmp_path / "kept").rename(cohort.folder / "2_t2.npy")
    assert carry_out(cohort.content(output)).explained == 6
    assert reasons(output) == [] and verify(output) == []


def test_a_finished_image_that_loses_a_file_is_kept(cohort: Pairs, output: Location, tmp_path: Path) -> None:
    carry_out(cohort.content(output))
    before = stored(output)
    (cohort.folder / "2_t1.npy").rename(tmp_path / "kept")
    assert carry_out(cohort.content(output)).vanished == 1
    (tmp_path / "kept").rename(cohort.folder / "2_t1.npy")
    assert carry_out(cohort.content(output)).vanished == 0
    assert stored(output) == before


def test_what_is_damaged_is_mended_from_all_files(cohort: Pairs, output: Location) -> None:
    carry_out(cohort.content(output))
    before = stored(output)
    key = next(key for key in before if key.startswith("image/c/"))
    (output / "explanations.zarr" / key).write(before[key][:-1])
    found = verify(output)
    assert found
    repair(output, found)
    assert verify(output) == [] and stored(output) == before


def test_explainers_are_added_and_subjects_withdrawn(cohort: Pairs, output: Location) -> None:
    carry_out(cohort.content(output))
    before = open_store(output).load()
    more = [*cohort.content(output)["explainers"], {"name": "saliency", "label": "added"}]
    carry_out(cohort.content(output, explainers=more), extend=True)
    after = open_store(output).load()
    np.testing.assert_array_equal(after.attribution.sel(explainer=["saliency", "smoothgrad"]), before.attribution)
    np.testing.assert_array_equal(
        after.attribution.sel(explainer="added"), before.attribution.sel(explainer="saliency")
    )
    assert withdraw(output, "patient-1").images == (2, 3)
    assert np.isnan(open_store(output).image.values[2:4]).all() and verify(output) == []
    assert carry_out(cohort.content(output, explainers=more)).withdrawn == 2


def test_the_forecast_counts_all_files(cohort: Pairs, output: Location) -> None:
    ready = prepared(cohort.content(output))
    files = [(cohort.folder / name).stat().st_size for name in ("0_t1.npy", "0_t2.npy", "0-mask.npy")]
    assert [sum(fact.size for fact in entry.facts) for entry in ready.entries] == [sum(files)] * 6
    assert [sum(fact.decoded for fact in entry.facts) for entry in ready.entries] == [(2 + 1) * 16 * 16 * 4] * 6
    assert ready.plan.frame.sizes["channel"] == 2 and ready.cost.bytes_stored > 6 * 2 * 16 * 16 * 4


def test_the_forecast_and_the_bound_are_of_the_files_on_the_grid_of_the_first() -> None:
    fine, coarse = (Fact(str(size), "1-2", str(size), "nifti", "", "", 9, size) for size in (800, 100))
    sources = [EntrySource("t1", "image", "a", (fine,)), EntrySource("t2", "image", "b", (coarse,))]
    assert decoded_together(sources) == 1600 and decoded_together(sources[::-1]) == 900


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sequences": ["t2", "t1"]}, "cohort.sequences"),
        ({"sequences": ["T1", "T2"]}, "cohort.sequences"),
        ({"align": "to first"}, "cohort.align"),
    ],
)
def test_an_output_goes_on_with_its_own_sequences(
    cohort: Pairs, output: Location, change: dict[str, Any], field: str
) -> None:
    carry_out(cohort.content(output))
    content = cohort.content(output)
    with pytest.raises(Refused, match=field):
        prepared(content | {"cohort": content["cohort"] | change})


def test_a_file_of_several_channels_is_refused_by_its_name(cohort: Pairs, output: Location) -> None:
    np.save(cohort.folder / "0_t2.npy", np.ones((3, 16, 16), np.float32))
    assert carry_out(cohort.content(output)).quarantined == 1
    (told,) = reasons(output)
    assert told.startswith("its t2 has 3 channels, and the network takes one of each of t1, t2")
    for number in cohort.numbers:
        np.save(cohort.folder / f"{number}_t2.npy", np.ones((3, 16, 16), np.float32))
    with pytest.raises(ConfigurationError, match="none of 3 images that were tried can be explained: its t2 has 3"):
        prepared(cohort.content(Location(url=f"{output.url}-2")))


def test_channels_that_could_be_of_another_file_elsewhere_are_refused(cohort: Pairs, output: Location) -> None:
    content = cohort.content(output)
    content["model"] |= squares_model(cohort.folder, ("a", "b"), NETWORK | {"in_shape": [4, 16, 16]}) | {"channels": 4}
    for number in cohort.numbers:
        for sequence, channels in (("t1", 1 if number == 0 else 2), ("t2", 3 if number == 0 else 2)):
            np.save(cohort.folder / f"{number}_{sequence}.npy", np.full((channels, 16, 16), number, np.float32))
    assert carry_out(content).quarantined == 1
    (told,) = reasons(output)
    assert told.startswith("its t1 has 1 channels and its t2 3, so that")


AFFINE = np.diag([2.0, 2, 2, 1])


@pytest.mark.parametrize("shift", [0, 8])
def test_files_are_resampled_when_asked_and_the_mask_is_of_the_first(
    cohort: Pairs, output: Location, shift: int
) -> None:
    finer = AFFINE @ np.diag([0.5, 0.5, 1, 1])
    finer[0, 3] = shift
    for number in cohort.numbers:
        first, other = cohort.pixels(number, 0), np.full((40, 40), number, np.float32)
        nibabel.Nifti1Image(first.T[:, :, None], AFFINE).to_filename(cohort.folder / f"{number}_t1.nii")
        nibabel.Nifti1Image(other.T[:, :, None], finer).to_filename(cohort.folder / f"{number}_t2.nii")
        mask = (first > 1).astype(np.uint8)
        nibabel.Nifti1Image(mask.T[::-1, :, None], AFFINE @ mirror()).to_filename(cohort.folder / f"{number}_m.nii")
    table = pd.DataFrame({"t1": [f"{n}_t1.nii" for n in cohort.numbers], "t2": [f"{n}_t2.nii" for n in cohort.numbers]})
    table.assign(seg=[f"{n}_m.nii" for n in cohort.numbers]).to_csv(cohort.folder / "manifest.csv", index=False)
    content = cohort.content(output)
    del content["cohort"]["sequences"]
    content["cohort"] |= {"columns": {"uri": SEQUENCES, "mask": "seg"}, "align": "to first"}
    carry_out(content)
    dataset = open_store(output).load()
    beyond = shift // 2
    for row, number in enumerate(cohort.numbers):
        np.testing.assert_array_equal(dataset.image[row, 0], cohort.pixels(number, 0))
        assert (dataset.image[row, 1, :, beyond:] == number).all() and not dataset.image[row, 1, :, :beyond].any()
        np.testing.assert_array_equal(dataset.mask[row], cohort.pixels(number, 0) > 1)
    assert ((dataset.image_flags.values & ImageFlag.PARTLY_COVERED) > 0).tolist() == [shift > 0] * 6


def mirror() -> Any:
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = 15
    return matrix
