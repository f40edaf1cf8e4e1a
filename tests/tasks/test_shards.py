"""Shards are written by what cannot be reckoned, and come back as they were cut."""

import random

import pytest
from pydantic import TypeAdapter

from tasks.cohort.entry import Entry
from tasks.plan.shards import Shards, cut, digest_of

SHARDS = TypeAdapter(Shards)
Batches = list[list[list[int]]]


def entries_of(count: int, missing: set[int] = frozenset()) -> list[Entry]:
    return [Entry(f"id {row}", None if row in missing else f"{row:064x}") for row in range(count)]


def by_hand(entries: list[Entry], size: int, batch: int, before: Batches, known: int, again: set[int]) -> Batches:
    """Cut as the words say: the batches of before stay, and images that are new or to be done again get their own."""
    found = []
    for index, start in enumerate(range(0, len(entries), size)):
        rows = range(start, min(start + size, len(entries)))
        fresh = [row - start for row in rows if entries[row].digest and (row >= known or row in again)]
        added = [fresh[first : first + batch] for first in range(0, len(fresh), batch)]
        found.append([*(before[index] if index < len(before) else []), *added])
    return found


def batches_of(shards: Shards) -> Batches:
    return [[list(batch) for batch in shard.batches] for shard in shards]


@pytest.mark.parametrize("seed", range(8))
def test_shards_are_cut_written_and_read_as_the_words_say(seed: int) -> None:
    draw = random.Random(seed)
    size, batch = draw.randint(1, 9), draw.randint(1, 4)
    count, missing = draw.randint(1, 30), {draw.randrange(30) for _ in range(draw.randint(0, 8))}
    shards, expected, known = None, [], 0
    for _ in range(4):
        entries = entries_of(count, missing)
        again = {draw.randrange(known) for _ in range(draw.randint(0, 4))} if known else set()
        shards = cut(entries, size, batch, shards, again)
        expected = by_hand(entries, size, batch, expected, known, again)
        assert batches_of(shards) == expected
        assert SHARDS.validate_json(SHARDS.dump_json(shards)) == shards
        assert [(shard.start, shard.stop) for shard in shards] == [
            (start, min(start + size, count)) for start in range(0, count, size)
        ]
        known = count
        count += draw.randint(0, 10)
        missing -= {draw.randrange(30)}


def test_the_digest_of_a_shard_is_over_its_images_and_their_batches() -> None:
    entries = entries_of(5, {1})
    (shard,) = cut(entries, 8, 2)
    batches = {0: [0, 2], 2: [0, 2], 3: [3, 4], 4: [3, 4]}
    rows = [digest_of([one.id, one.digest, one.mask, batches.get(row)])[:16] for row, one in enumerate(entries)]
    assert shard.rows(entries) == tuple(rows) and shard.digest == digest_of(rows)


def test_what_can_be_reckoned_is_not_written() -> None:
    shards = cut(entries_of(100, {70}), 16, 8)
    assert shards.stretches == {4: "0-5,7-15"}
    assert shards[4].batches == ((0, 1, 2, 3, 4, 5, 7, 8), (9, 10, 11, 12, 13, 14, 15))
    grown = cut(entries_of(110, {70}), 16, 8, shards, {0})
    assert grown.stretches == {0: "0-15;0-0", 4: "0-5,7-15", 6: "0-3;4-13"}
    assert grown[-1].batches == ((0, 1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11), (12, 13))
    assert len(SHARDS.dump_json(cut(entries_of(25_600), 256, 16))) < 100 * 70


def test_shards_are_digested_anew_where_their_rows_change() -> None:
    entries = entries_of(40)
    shards = cut(entries, 16, 8)
    entries[20] = Entry("withdrawn-20", withdrawn=True)
    found = shards.digested(entries, {1})
    assert [one == other for one, other in zip(found.digests, shards.digests, strict=True)] == [True, False, True]
    assert found[1].rows(entries[16:32])[4] == digest_of(["withdrawn-20", None, None, [*range(8)]])[:16]
