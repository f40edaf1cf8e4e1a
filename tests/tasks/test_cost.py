"""The cost of a plan, counted by hand."""

from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from tasks.cohort.entry import Entry, Fact, Source, decoded_together
from tasks.cohort.packed_entries import batch_of
from tasks.prepare.memory import _Files
from tasks.storage.location import Location
from tests.tasks.outputs import Cohort, prepared


@pytest.mark.parametrize(
    ("asked", "forward", "backward"),
    [
        ({}, 0, 0),
        ({"metrics": ["gini"]}, 0, 0),
        ({"metrics": [{"name": "deletion", "points": 4, "patch": 4}]}, 5, 0),  # as it is, three shares hidden, and all
        ({"uncertainty": [{"name": "test_time_augmentation", "samples": 3}]}, 1 + 3, 3),
    ],
)
def test_what_evaluates_the_maps_is_forecast_with_what_makes_them(
    tmp_path: Path, asked: dict[str, Any], forward: int, backward: int
) -> None:
    cohort = Cohort(tmp_path / "cohort", range(4))
    content = cohort.content(Location(url=str(tmp_path / "out")), explainers=["saliency"], **asked)
    cost = prepared(content).cost
    assert (cost.forward_passes, cost.backward_passes) == (4 * (1 + forward), 4 * (1 + backward))
    assert (cost.evaluating_hours > 1e-7) == bool(asked) and cost.hours > cost.evaluating_hours


def image_of(number: int) -> Entry:
    """An image of one file, of copies of a slice, of two sequences, a frame, or of no file; some have masks."""
    names = (f"{number}", f"{number}" if number % 2 else "another", f"{number} too", "shared")
    sizes = [crc32(name.encode()) for name in names]
    files = [
        Fact(name, "1-2", name, "tiff", "", "", size, size * 8, pictures=5, volumes=2)
        for name, size in zip(names, sizes, strict=True)
    ]
    mask = (Source("", "mask", "", (files[3],)),) if number % 3 else ()
    parts = ((files[:1],), (files[:3],), (files[:1], files[1:3]), (files[:1],), ())[number % 5]
    sources = tuple(Source(str(place), "image", "", tuple(own)) for place, own in enumerate(parts))
    return Entry(f"{number}", sources=(*sources, *mask), frame=2 if number % 5 == 3 else None)


def decoded(entry: Entry) -> int:
    """Bytes of its pixels as float32, and of its mask's."""
    mask = sum(source.decoded for source in entry.sources if source.kind == "mask")
    return decoded_together(entry.sources) + mask


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_bytes_of_a_batch_and_of_an_image_are_those_of_its_files(spatial_dims: int) -> None:
    entries = list(map(image_of, range(100)))
    files = _Files(batch_of(entries))
    for batch in ((0,), (3, 4, 1, 99), (4,), range(100)):
        assert files.together(batch) == sum({f.file: f.size for row in batch for f in entries[row].facts}.values())
    frames = [entry.facts[0].count(spatial_dims) if entry.frame else 1 for entry in entries]
    expected = [decoded(entry) // count for entry, count in zip(entries, frames, strict=True)]
    assert files.decoded(spatial_dims).tolist() == expected
