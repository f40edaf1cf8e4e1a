from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks import manifest
from tasks.manifest import Entry
from tasks.storage import Location

ENTRIES = [
    Entry("plain", ("/data/a.png",), "0" * 64, "png", "tumour", "/data/mask.png"),
    Entry("series", ("s3://bucket/1.dcm", "s3://bucket/2.dcm"), "f" * 64, "dicom"),
    Entry("bare", ("/data/c.png",), reason="the file is empty"),
    Entry("Umlaut ü", ("/data/ü b.png",), "1" * 64, "png", label="straße"),
    Entry("last", ("/data/d.png",), "2" * 64, "png", label=""),
]


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location(url=str(tmp_path / "out"))


def test_all_rows_come_back_in_order(output: Location) -> None:
    manifest.write(output, iter(ENTRIES), rows_per_group=2)
    assert manifest.read(output) == ENTRIES


@pytest.mark.parametrize(
    ("groups", "rows"),
    [([0], slice(0, 2)), ([1], slice(2, 4)), ([2], slice(4, 5)), ([1, 2], slice(2, 5)), ([], slice(0, 0))],
)
def test_a_shard_reads_its_own_rows(output: Location, groups: list[int], rows: slice) -> None:
    manifest.write(output, ENTRIES, rows_per_group=2)
    assert manifest.read(output, groups) == ENTRIES[rows]


def test_some_rows_are_found_by_their_ids(output: Location) -> None:
    manifest.write(output, ENTRIES, rows_per_group=2)
    assert manifest.read(output, ids=["last", "series", "nobody"]) == [ENTRIES[1], ENTRIES[4]]
    assert manifest.read(output, ids=[]) == []


def test_others_can_read_it_as_one_row_group_a_shard(output: Location) -> None:
    manifest.write(output, ENTRIES, rows_per_group=2)
    parquet = pq.ParquetFile(f"{output.path}/manifest.parquet")
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    assert sizes == [2, 2, 1]
    assert parquet.read(["id"]).column("id").to_pylist() == [entry.id for entry in ENTRIES]


def test_a_later_manifest_replaces_the_first(output: Location) -> None:
    manifest.write(output, ENTRIES, rows_per_group=2)
    manifest.write(output, ENTRIES[:1], rows_per_group=2)
    assert manifest.read(output) == ENTRIES[:1]
    assert [path.name for path in Path(output.path).iterdir()] == ["manifest.parquet"]


def test_the_files_of_an_image_include_its_mask() -> None:
    assert ENTRIES[0].files == ("/data/a.png", "/data/mask.png")
    assert ENTRIES[1].files == ENTRIES[1].uris


def test_a_quarantined_entry_keeps_what_is_known() -> None:
    refused = ENTRIES[0].quarantined("too big")
    assert refused.reason == "too big" and ENTRIES[0].reason is None
    assert (refused.id, refused.uris, refused.label) == ("plain", ("/data/a.png",), "tumour")
