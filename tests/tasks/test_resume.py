"""A later run onto an output: what it computes, keeps, marks and refuses."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.engine import Engine
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry, Fact, Source
from tasks.plan import shards as shards_module
from tasks.plan.plan import Plan
from tasks.prepare.replan import Refused, replan
from tasks.storage.location import Location
from tasks.store import objects, template
from tasks.store.commit import Commit, DeliveredPart, StoredObject, delivered, stamps
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.work import explain as shard_module
from tasks.work.batches import ReadBatch
from tasks.work.failures import Seen, TooManyFailures
from tasks.work.finish import finish, summarise
from tasks.work.pending import pending
from tests.tasks.outputs import Cohort, carry_out, explained, prepared, promised, stored
from tests.tasks.test_plan import plan as planned

EXPLAINERS: list[Any] = ["saliency", {"name": "smoothgrad", "samples": 2}]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Ids of the images in each batch that an engine explains for a delivery."""
    batches: list[tuple[str, ...]] = []
    ask = shard_module._ask

    def noted(engine: Engine, batch: ReadBatch) -> Any:
        batches.append(tuple(batch.remaining.entries[row].id for row in batch.rows))
        return ask(engine, batch)

    monkeypatch.setattr(shard_module, "_ask", noted)
    return batches


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort", range(6))


def test_a_second_run_computes_and_writes_nothing(
    cohort: Cohort, output: Location, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(cohort.content(output))
    before = {path: stamp for path, stamp in output.stamps().items()}
    asked.clear()
    monkeypatch.setattr(Location, "write", lambda self, data: pytest.fail(f"wrote {self}"))
    assert carry_out(cohort.content(output)).explained == 6
    assert asked == [] and output.stamps() == before


def test_new_changed_and_vanished_images(cohort: Cohort, output: Location, asked: list[Any]) -> None:
    carry_out(cohort.content(output))
    before = open_store(output).load()
    cohort.add([6, 7, 8])
    cohort.add([1], version=1)
    cohort.take_away([2])
    asked.clear()
    summary = carry_out(cohort.content(output))
    assert (summary.images, summary.explained, summary.vanished) == (9, 9, 1)
    assert asked == [("id-1",), ("id-6", "id-7"), ("id-8",)]
    after = open_store(output).load()
    assert list(after.image_id.values) == [f"id-{number}" for number in range(9)]
    assert after.present.values.tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert [entry.present for entry in promised(output)[1]] == (after.present.values == 1).tolist()
    for name in ("image", "mask", "logit", "attribution", "map_flags", "label"):
        same = [row for row in range(6) if row != 1]
        assert before[name].values[same].tobytes() == after[name].values[same].tobytes()
    assert not np.array_equal(before.image.values[1], after.image.values[1])
    assert verify(output) == []
    asked.clear()
    cohort.add([2])
    assert carry_out(cohort.content(output)).vanished == 0
    assert asked == []  # it came back as it was


def test_an_appended_cohort_is_recomputed_bit_for_bit_from_its_sources(
    cohort: Cohort, output: Location, asked: list[Any]
) -> None:
    carry_out(cohort.content(output))
    cohort.add([6, 7, 8])
    cohort.add([1], version=1)
    carry_out(cohort.content(output))
    carry_out(cohort.content(output, explainers=[*EXPLAINERS, {"name": "saliency", "label": "more"}]), extend=True)
    before = stored(output)
    (output / "commits").remove()
    asked.clear()
    carry_out(cohort.content(output, explainers=[*EXPLAINERS, {"name": "saliency", "label": "more"}]))
    assert len(asked) == 2 * len([batch for shard in promised(output)[0].shards for batch in shard.batches])
    assert stored(output) == before


def test_an_explainer_is_added_and_the_others_stay_as_they_are(
    cohort: Cohort, output: Location, asked: list[Any]
) -> None:
    carry_out(cohort.content(output))
    before = {key: data for key, data in stored(output).items() if "/c/" in key}
    stamps_before = (output / objects.NAME).stamps()
    asked.clear()
    more = [{"name": "saliency", "label": "added"}, *EXPLAINERS]  # new ones come last, wherever they are named
    with pytest.raises(Refused, match="--extend, which computes just the explainers that were added"):
        carry_out(cohort.content(output, explainers=more))
    carry_out(cohort.content(output, explainers=more), extend=True)
    assert asked == [("id-0", "id-1", "id-2"), ("id-3",), ("id-4", "id-5")]
    dataset = open_store(output).load()
    assert list(dataset.explainer.values) == ["saliency", "smoothgrad", "added"]
    np.testing.assert_array_equal(
        dataset.attribution.sel(explainer="added").values, dataset.attribution.sel(explainer="saliency").values
    )
    after, stamps_after = stored(output), (output / objects.NAME).stamps()
    kept = [key for key in before if key != "explainer/c/0"]
    assert all(after[key] == before[key] and stamps_after[key] == stamps_before[key] for key in kept)
    assert verify(output) == []


def test_explainers_are_added_to_an_output_that_is_not_finished(cohort: Cohort, tmp_path: Path) -> None:
    more = [*EXPLAINERS, {"name": "saliency", "label": "added"}]
    found = []
    for name, shards in (("whole", [0, 1]), ("half", [1])):
        output = Location(url=str(tmp_path / name))
        ready = prepared(cohort.content(output))
        ready.plan.write(output, ready.entries)
        template.set_up(output, ready.plan, ready.entries)
        explained(output, shards)
        carry_out(cohort.content(output, explainers=more), extend=True)
        found.append(stored(output))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"explainers": ["saliency"]}, r'explainers: \["saliency", "smoothgrad"\] → \["saliency"\]'),
        ({"explainers": ["saliency", {"name": "smoothgrad", "samples": 3}]}, r'"samples": 2.* → .*"samples": 3'),
        ({"target": {"name": "predicted", "k": 2}}, r'target: \{"name": "predicted", "k": 1\} → \{"name": .*"k": 2\}'),
        ({"compute": {"batch_size": 2}}, "batch_size: 3 → 2"),
        ({"cohort": {"window": "file"}}, "cohort.window: none → file"),
        (
            {"cohort": {"preprocessing": [{"_target_": "monai.transforms.NormalizeIntensity"}]}},
            r"cohort.preprocessing: \[\] → .*NormalizeIntensity",
        ),
        ({"model": {"classes": ["b", "a"]}}, r'model.classes: \["a", "b"\] → \["b", "a"\]'),
    ],
)
def test_another_run_is_refused_with_what_differs_side_by_side(
    changes: dict[str, Any], message: str, cohort: Cohort, output: Location
) -> None:
    content = cohort.content(output)
    carry_out(content)
    before = {path: (output / path).read() for path in output.sizes()}
    for field, value in changes.items():
        content[field] = {**content.get(field, {}), **value} if isinstance(value, dict) else value
    with pytest.raises(Refused, match=message) as refused:
        carry_out(content, extend=True)
    assert "name another output" in str(refused.value) and "--overwrite" in str(refused.value)
    assert "--extend is no way here" in str(refused.value)
    assert {path: (output / path).read() for path in output.sizes()} == before


def test_other_weights_and_another_cohort_are_refused(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    carry_out(cohort.content(output))
    other = Cohort(tmp_path / "other", range(100, 106))
    with pytest.raises(Refused, match="none of the 6 images of the output is in the cohort"):
        carry_out(other.content(output))
    weights = bytearray((cohort.folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (cohort.folder / "weights.safetensors").write_bytes(weights)
    with pytest.raises(Refused, match=r"model digest: [0-9a-f]{64} → [0-9a-f]{64}"):
        carry_out(cohort.content(output))


def test_overwrite_deletes_a_run_of_ours_and_nothing_else(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    carry_out(cohort.content(output), report=True)
    (output / "thesis.docx").write(b"precious")
    carry_out(cohort.content(output, explainers=["saliency"]), overwrite=True)
    assert list(open_store(output).explainer.values) == ["saliency"]
    assert "report/index.html" not in output.sizes()
    assert (output / "thesis.docx").read() == b"precious"
    foreign = Location(url=str(tmp_path / "foreign"))
    (foreign / "thesis.docx").write(b"precious")
    with pytest.raises(ValueError, match="holds files that are of no run"):
        carry_out(cohort.content(foreign), overwrite=True)
    assert foreign.sizes() == {"thesis.docx": 8}


def test_a_hole_and_objects_of_another_size_are_filled_and_nothing_else_is_done(
    cohort: Cohort, output: Location, asked: list[Any]
) -> None:
    cohort.add(range(6, 14))
    carry_out(cohort.content(output))
    before = stored(output)
    (output / "commits/000001.json").remove()
    (output / objects.NAME / "logit/c/2/0").remove()
    path = output / objects.NAME / "image/c/3/0/0/0"
    path.write(path.read()[:-1])
    asked.clear()
    carry_out(cohort.content(output))
    assert {name for batch in asked for name in batch} == {f"id-{number}" for number in range(4, 14)}
    assert stored(output) == before
    assert verify(output) == []


def test_a_source_that_was_away_while_it_was_to_be_read_is_done_by_the_next_run(
    cohort: Cohort, output: Location, asked: list[Any], tmp_path: Path
) -> None:
    carry_out(cohort.content(Location(url=str(tmp_path / "undisturbed"))))
    ready = prepared(cohort.content(output))
    ready.plan.write(output, ready.entries)
    template.set_up(output, ready.plan, ready.entries)
    (cohort.folder / "1.npy").rename(cohort.folder / "away")
    explained(output, pending(output, ready.plan))
    assert finish(output).quarantined == 1
    (cohort.folder / "away").rename(cohort.folder / "1.npy")
    asked.clear()
    assert carry_out(cohort.content(output)).explained == 6
    assert asked == [("id-0", "id-1", "id-2"), ("id-3",)]  # its shard, in the batches that were planned
    assert promised(output)[1][1].reason is None
    assert stored(output) == stored(Location(url=str(tmp_path / "undisturbed")))
    assert verify(output) == []


def test_what_cannot_be_read_does_not_change_the_arithmetic_of_others(cohort: Cohort, tmp_path: Path) -> None:
    found = []
    for name in ("all", "less"):
        output = Location(url=str(tmp_path / name))
        ready = prepared(cohort.content(output))
        ready.plan.write(output, ready.entries)
        template.set_up(output, ready.plan, ready.entries)
        if name == "less":
            (cohort.folder / "1.npy").unlink()
        explained(output, [0])
        found.append(open_store(output).load())
    for row in (0, 2, 3):
        for variable in ("logit", "attribution"):
            assert found[0][variable].values[row].tobytes() == found[1][variable].values[row].tobytes()
    assert np.isnan(found[1].logit.values[1]).all()


def test_an_unchanged_file_is_not_read_again_to_be_planned(
    cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(cohort.content(output))
    cohort.add([6])
    cohort.add([3], version=1)
    read: list[str] = []
    original = Location.read
    monkeypatch.setattr(Location, "read", lambda self: read.append(self.url) or original(self))
    ready = prepared(cohort.content(output))
    assert ready.changes and (ready.changes.new, ready.changes.changed) == (1, 1)
    assert sorted(Path(url).name for url in read if url.endswith(".npy")) == [
        "3-mask.npy",
        "3.npy",
        "6-mask.npy",
        "6.npy",
    ]


def test_a_run_in_which_too_much_fails_is_stopped_with_the_most_frequent_reasons() -> None:
    def commit(shard: int, failed: int) -> Commit:
        reasons = {f"{shard}-{n}": "too dark" if n % 3 else f"odd {n}" for n in range(failed)}
        status = tuple([2] * failed + [1] * (20 - failed))
        return Commit(shard=shard, rows=("",) * 20, status=status, reasons=reasons, again=(), parts={}, seconds={})

    plan = planned(1000, cohort=CohortConfig(source="images", allowed_failures=0.5))
    Seen(plan, {0: commit(0, 20), 1: commit(1, 20)})  # too few to tell
    seen = Seen(plan, {0: commit(0, 15), 1: commit(1, 10)})
    seen.add({2: commit(2, 5)})
    assert seen.shards == {0, 1, 2}
    seen = Seen(plan, {0: commit(0, 20)})
    seen.add({1: commit(1, 10)})
    with pytest.raises(TooManyFailures, match="31 of the 60 images seen so far") as error:
        seen.add({2: commit(2, 1)})
    assert "of 1000" in str(error.value) and "× too dark" in str(error.value) and "50%" in str(error.value)


def test_a_cohort_of_which_most_is_no_image_is_not_begun(cohort: Cohort, output: Location) -> None:
    for number in range(60):
        (cohort.folder / f"{number}.npy").write_bytes(b"text")
    cohort.numbers = list(range(60))
    cohort._list()
    with pytest.raises(TooManyFailures, match="60 × not a known image format"):
        carry_out(cohort.content(output))
    assert output.sizes() == {}


def source_of(number: int) -> Source:
    digest = f"{number:064x}"
    return Source("", "image", digest, (Fact(f"{number:016x}", "1-2", digest, "png", "", "", 9, 9),))


def test_a_finished_run_of_100_000_images_is_found_finished_in_seconds(
    output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    count = 100_000
    entries = [Entry(f"{n:016x}", f"{n:064x}", "png", sources=(source_of(n),)) for n in range(count)]
    plan: Plan = planned(entries=entries)
    assert len(plan.shards) == 131
    plan.write(output, entries)
    template.set_up(output, plan, entries)
    for shard in plan.shards:
        there = {piece.key: StoredObject(sha256="0" * 64, size=0) for piece in objects.part_pieces(plan, shard, 0)}
        for key in there:
            path = Path((output / objects.NAME / key).path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        rows = shard.rows(entries[shard.start : shard.stop])
        part = DeliveredPart(digest=plan.part_digests[0], objects=there, flags={})
        status = (1,) * shard.images
        Commit(shard=shard.index, rows=rows, status=status, reasons={}, again=(), parts={0: part}, seconds={}).write(
            output
        )
    finish(output)
    began = time.process_time()
    there, known = promised(output)
    network: Any = None  # which no added explainer asks
    commits = Commit.read(output, stamps(output))
    goes_on, now, changes = replan(there, known, commits, plan, entries, network, extend=False)
    assert (goes_on, now) == (there, known) and (changes.new, changes.changed, changes.vanished) == (0, 0, 0)
    template.set_up(output, there, known)
    assert pending(output, there) == []
    assert finish(output).explained == count
    assert time.process_time() - began < 30
    assert summarise(output).pending == 0 and len(delivered(output, plan)) == len(plan.shards)
