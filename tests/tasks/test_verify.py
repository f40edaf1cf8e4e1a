"""Whatever is damaged is found, and mended to the byte."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks.plan import manifest
from tasks.plan import shards as shards_module
from tasks.storage.location import Location
from tasks.store import objects, template
from tasks.store.commit import Commit
from tasks.upkeep.verify import repair, verify
from tests.soak import spread
from tests.tasks.outputs import Cohort, carry_out, promised, stored


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort", range(6))


@pytest.fixture
def output(tmp_path: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A finished output with two shards of two parts."""
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    output = Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output, explainers=["saliency"]))
    carry_out(cohort.content(output, explainers=["saliency", "gradcam"]), extend=True)
    return output


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    match how:
        case "truncate":
            path.write_bytes(data[:-1])
        case "flip":
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        case "delete":
            path.unlink()


DAMAGES = ("truncate", "flip", "delete")


@pytest.mark.parametrize("how", DAMAGES)
def test_every_damaged_file_is_found_and_mended_to_the_byte(output: Location, how: str) -> None:
    expected, kept = stored(output), promised(output)
    files = sorted(name for name in output.sizes() if name != manifest.NAME)
    assert len(files) > 50
    for name in spread(files, 3, first=DAMAGES.index(how)):  # so that each file is damaged in one way at least
        damaged(Path(output.path) / name, how)
        found = verify(output)
        assert found, f"{how} {name}"
        repair(output, found)
        assert verify(output) == [], f"{how} {name}"
        assert (stored(output), promised(output)) == (expected, kept), f"{how} {name}"


def test_all_damaged_at_once_is_found_and_mended(output: Location) -> None:
    expected = stored(output)
    keys = [key for commit in Commit.read(output, [0, 1]).values() for key in commit.objects]
    for number, key in enumerate(keys):
        damaged(Path(output.path) / objects.NAME / key, ("truncate", "flip", "delete")[number % 3])
    assert {damage.where for damage in verify(output) if damage.what == "object"} == set(keys)
    repair(output, verify(output))
    assert stored(output) == expected


@pytest.mark.parametrize("how", ["truncate", "flip"])
def test_a_damaged_manifest_is_found(output: Location, how: str) -> None:
    path = Path(output.path) / manifest.NAME
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(
            data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :] if how == "flip" else data[:place]
        )
        try:
            there = promised(output)
        except Exception:
            assert verify(output), place
            continue
        path.write_bytes(data)
        assert there == promised(output) or verify(output) == [], place
    path.write_bytes(data)


def test_strays_are_found_and_removed(output: Location) -> None:
    strays = [f"{objects.NAME}/attribution/c/9/0/0/0/0", f"{objects.NAME}/other/zarr.json", "staged/logit/c/0/0"]
    strays += ["commits/000009.json", "commits/000000.json.abc.partial"]
    for stray in strays:
        (output / stray).write(b"x")
    found = verify(output)
    assert sorted(damage.where for damage in found) == sorted(strays)
    repair(output, found)
    assert verify(output) == []


def test_values_that_cannot_be_are_found_though_their_checksums_are_right(output: Location) -> None:
    plan, entries = promised(output)
    shard = plan.shards[0]
    commit = Commit.read(output, [0])[0]
    expected = stored(output)
    for name, row, value, problem in (
        ("logit", 1, np.nan, "NaN in 1 images, such as row 1"),
        ("attribution", 2, np.nan, "NaN in 1 images, such as row 2"),
        ("attribution", 3, 0.0, "blank maps without a flag in 1 images, such as row 3"),
    ):
        names = [declared.name for declared in plan.parts[0].outputs]
        block = objects.read_shard(output, plan, shard, commit.objects, names)
        block[name][row] = value
        there = objects.write(output / objects.NAME, objects.part_pieces(plan, shard, 0), block)
        part = commit.parts[0].model_copy(update={"objects": there})
        commit.model_copy(update={"parts": commit.parts | {0: part}}).write(output)
        found = verify(output)
        assert [(damage.what, damage.problem) for damage in found] == [("content", problem)]
        repair(output, found)
        assert stored(output) == expected
    assert len(entries) == 6


def test_what_cannot_be_mended_is_quarantined_and_its_neighbours_are_whole(
    output: Location, cohort: Cohort, tmp_path: Path
) -> None:
    before = template.open_store(output).load()
    shutil.move(cohort.folder / "1.npy", tmp_path / "lost.npy")
    (output / objects.NAME / "logit/c/0/0").remove()
    repair(output, verify(output))
    after = template.open_store(output).load()
    assert after.status.values.tolist() == [1, 2, 1, 1, 1, 1]
    rest = [0, 2, 3, 4, 5]
    assert before.attribution.values[rest].tobytes() == after.attribution.values[rest].tobytes()
    assert "cannot be opened" in str(promised(output)[1][1].reason)
