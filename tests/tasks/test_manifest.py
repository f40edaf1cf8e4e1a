from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.cohort.entry import Entry, Fact, Source
from tasks.cohort.packed_entries import Entries, known_files
from tasks.plan import manifest
from tasks.storage.location import Location

IMAGE = Source("", "image", "0" * 64, (Fact("f1", "1-2", "0" * 64, "png", "", "", 99, 2**33, "p1", ""),))
MASK = Source("", "mask", "a" * 64, (Fact("f2", "3-4", "a" * 64, "png", "", "", 9, 9),))
ENTRIES = [
    Entry("plain", "0" * 64, "png", "tumour", "a" * 64, sources=(IMAGE, MASK)),
    Entry("series", "f" * 64, "dicom", present=False),
    Entry("bare", reason="the file is empty"),
    Entry("Umlaut ü", "1" * 64, "png", label="straße"),
    Entry("last", "2" * 64, "png", label="", withdrawn=True),
]


def test_all_rows_come_back_in_order(output: Location) -> None:
    manifest.write(output, ENTRIES, rows_per_shard=2)
    assert manifest.read(output) == ENTRIES


@pytest.mark.parametrize(
    ("groups", "rows"),
    [([0], slice(0, 2)), ([1], slice(2, 4)), ([2], slice(4, 5)), ([1, 2], slice(2, 5)), ([], slice(0, 0))],
)
def test_a_shard_reads_its_own_rows(output: Location, groups: list[int], rows: slice) -> None:
    manifest.write(output, ENTRIES, rows_per_shard=2)
    assert manifest.read(output, groups) == ENTRIES[rows]


def test_shards_are_read_one_after_the_other_without_sources(output: Location) -> None:
    manifest.write(output, ENTRIES, rows_per_shard=2)
    plain = [replace(entry, sources=()) for entry in ENTRIES]
    assert list(manifest.read_each(output, [2, 0])) == [plain[4:], plain[:2]]
    assert manifest.read(output, sources=False) == plain


def test_some_rows_are_found_by_their_ids(output: Location) -> None:
    manifest.write(output, ENTRIES, rows_per_shard=2)
    assert manifest.read(output, ids=["last", "series", "nobody"]) == [ENTRIES[1], ENTRIES[4]]
    assert manifest.read(output, ids=[]) == []


def test_others_can_read_it_as_one_row_group_a_shard(output: Location) -> None:
    manifest.write(output, ENTRIES, rows_per_shard=2)
    parquet = pq.ParquetFile(f"{output.path}/manifest.parquet")
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    assert sizes == [2, 2, 1]
    assert parquet.read(["id"]).column("id").to_pylist() == [entry.id for entry in ENTRIES]


def test_a_plan_may_take_more_than_100_mb(output: Location) -> None:
    plan = "x" * 101_000_000
    manifest.write(output, ENTRIES, rows_per_shard=2, metadata={"plan": plan})
    assert manifest.read_metadata(output)["plan"] == plan
    assert manifest.read(output, [1]) == ENTRIES[2:4]


def test_a_later_manifest_replaces_the_first(output: Location) -> None:
    manifest.write(output, ENTRIES, rows_per_shard=2)
    manifest.write(output, ENTRIES[:1], rows_per_shard=2)
    assert manifest.read(output) == ENTRIES[:1]
    assert [path.name for path in Path(output.path).iterdir()] == ["manifest.parquet"]


def test_files_are_known_by_their_pseudonyms() -> None:
    assert known_files(ENTRIES) == {"f1": IMAGE.files[0], "f2": MASK.files[0]}


def test_a_quarantined_entry_keeps_what_is_known() -> None:
    refused = ENTRIES[0].quarantined("too big")
    assert refused.reason == "too big" and ENTRIES[0].reason is None
    assert (refused.id, refused.digest, refused.label) == ("plain", "0" * 64, "tumour")


def test_a_file_of_many_shards_has_few_row_groups(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_MOST_GROUPS", 3)
    entries = [Entry(str(number), f"{number:064x}") for number in range(35)]
    manifest.write(output, entries, rows_per_shard=4)
    parquet = pq.ParquetFile(f"{output.path}/manifest.parquet")
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    assert sizes == [12, 12, 11]
    assert list(manifest.read_each(output, [8, 0, 5, 4])) == [entries[32:], entries[:4], entries[20:24], entries[16:20]]
    assert manifest.read(output, [2]) == entries[8:12] and manifest.load(output) == entries


@pytest.mark.parametrize("sources", [True, False])
def test_a_manifest_is_read_packed(output: Location, sources: bool) -> None:
    manifest.write(output, Entries(ENTRIES), rows_per_shard=2)
    assert manifest.load(output, sources=sources) == manifest.read(output, sources=sources)
