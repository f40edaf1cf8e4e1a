"""Millions of entries and places are held compressed, and are the same as if they were not."""

import pickle
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.cohort import packed, packed_entries
from tasks.cohort.entry import Entry, Fact, Source
from tasks.cohort.packed import Index, Packed, PackedMapping
from tasks.cohort.packed_entries import Entries, entries_of, known_files
from tasks.cohort.sources import Source as Place
from tasks.cohort.sources import Sources

COUNT = 1300
"""Many blocks, the last of which is not full."""


def entry_of(number: int) -> Entry:
    digest, other = (sha256(f"{what} {number}".encode()).hexdigest() for what in ("file", "other"))
    fact = Fact(other[:16], f"{number}-{other[16:48]}", digest, "dicom", other[48:], "CR", 2**20 + number, 2**21)
    mask = Source("", "mask", other, (fact, fact._replace(orientation=(1.0, 0.0)))) if number % 7 == 0 else None
    return Entry(
        digest[:16],
        digest if number % 5 else None,
        "dicom",
        label=("a", None, "ü")[number % 3],
        mask=other if mask else None,
        measures=(0.5, None),
        sources=(Source("", "image", digest, (fact,)), *([mask] if mask else [])),
        covariates=("site",),
    )


ENTRIES = [entry_of(number) for number in range(COUNT)]


def test_a_packed_sequence_is_the_sequence() -> None:
    found = Entries(iter(ENTRIES))
    assert len(found) == COUNT and list(found) == ENTRIES and found == ENTRIES
    block = packed_entries._BLOCK
    places = (0, block - 1, block, COUNT - 1, -1, -COUNT)
    assert [found[place] for place in places] == [ENTRIES[place] for place in places]
    assert found[500:530] == ENTRIES[500:530] and found[::-400] == ENTRIES[::-400]
    with pytest.raises(IndexError):
        found[COUNT]
    assert not Entries() and list(Entries()) == []


def test_packed_sequences_are_equal_if_their_items_are() -> None:
    """Also if their pickles are not: those of equal texts differ by which of them are one object."""
    found = Entries(ENTRIES)
    assert found == Entries(pickle.loads(pickle.dumps(ENTRIES)))
    assert found != Entries(ENTRIES[:-1]) and found != ENTRIES[:-1]
    assert found != Entries([*ENTRIES[:-1], ENTRIES[-1].quarantined("damaged")])


def test_columns_are_the_fields_of_the_entries() -> None:
    found = Entries(ENTRIES)
    assert list(found.columns("digest")) == [entry.digest for entry in ENTRIES]
    assert list(found.columns("mask", "sources")) == [(entry.mask, entry.sources) for entry in ENTRIES]


def test_an_image_of_one_file_takes_little_more_than_its_digests() -> None:
    """Eighty bytes of an image are digests, stamp and pseudonyms, which nothing compresses."""
    plain = [Entry(one.id, one.digest, "dicom", sources=one.sources[:1]) for one in ENTRIES]
    size = sum(len(data) for _, data in Entries(plain)._blocks) / COUNT
    assert 80 < size < 130


def shuffled(count: int) -> list[int]:
    return np.random.default_rng(0).permutation(count).tolist()


@pytest.mark.parametrize("places", [shuffled(COUNT), range(COUNT), [7, 7, 1299, 0, 7], []])
def test_entries_are_taken_in_any_order_and_each_block_is_unpacked_once(
    places: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cohort table may come in another order each time."""
    monkeypatch.setattr(packed_entries, "AT_ONCE", 100)
    found, unpacked, block = Entries(ENTRIES), list[int](), Entries._block

    def counted(entries: Entries, number: int) -> pa.RecordBatch:
        unpacked.append(number) if entries is found else None
        return block(entries, number)

    monkeypatch.setattr(Entries, "_block", counted)
    batches = list(found.take(np.array(places, np.int64)))
    assert [entry for batch in batches for entry in entries_of(batch)] == [ENTRIES[place] for place in places]
    assert max(map(len, batches), default=0) <= 100 and len(unpacked) <= 3


def test_images_are_found_by_their_ids() -> None:
    others = Entries(ENTRIES[place] for place in shuffled(COUNT)[:50])
    nobody = Entries([Entry("nobody")])
    assert Entries(ENTRIES).places(others).tolist() == shuffled(COUNT)[:50]
    assert Entries(ENTRIES).places(nobody).tolist() == [-1] == nobody.places(Entries(ENTRIES[:1])).tolist()


@pytest.mark.parametrize("size", [1, 99, packed_entries._BLOCK, COUNT, 10 * COUNT])
def test_batches_of_any_size_hold_the_same_images(size: int) -> None:
    batches = list(Entries(ENTRIES).batches(size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert Entries.of(batches) == Entries(ENTRIES) == ENTRIES


def test_a_look_up_out_of_order_makes_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    found, made, loads = PackedMapping((str(number), number) for number in range(COUNT)), list[Any](), pickle.loads
    monkeypatch.setattr(packed.pickle, "loads", lambda data: made.append(loads(data)) or made[-1])
    assert [found[str(place)] for place in shuffled(COUNT)] == shuffled(COUNT)
    assert sum(isinstance(one, int) for one in made) == COUNT


def test_the_last_thing_of_a_name_counts() -> None:
    items = [(f"name {number % 1000}", number) for number in range(COUNT)]
    found = PackedMapping(items)
    assert found == dict(items) and len(found) == 1000 and found.repeats == 300
    assert (found["name 7"], found["name 999"], found.get("nobody")) == (1007, 999, None)


def test_names_with_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def few_hashes(names: Iterable[str]) -> np.ndarray:
        return np.array([len(name) for name in names], np.uint64)

    monkeypatch.setattr(packed, "_hashes", few_hashes)
    names = [str(number) for number in range(200)]
    index = Index(names, names.__getitem__)
    assert [index.find(name) for name in reversed(names)] == list(reversed(range(200)))
    assert index.find("777") is None and index.repeats == 0
    assert Index([*names, "5"], [*names, "5"].__getitem__).repeats == 1


def test_threads_do_not_disturb_one_another() -> None:
    found = PackedMapping((str(number), number) for number in range(COUNT))

    def look(first: int) -> list[int | None]:
        return [found.get(str(number)) for number in range(first, COUNT + 10, 7)]

    with ThreadPoolExecutor(7) as pool:
        for first, numbers in enumerate(pool.map(look, range(7))):
            there = list(range(first, COUNT, 7))
            assert numbers == there + [None] * (len(numbers) - len(there))


def test_places_are_found_after_they_were_sent_to_another_process() -> None:
    """Hashes of text differ between processes of Python; those of the places do not."""
    sources = Sources(PackedMapping((f"{number}", Place((f"/{number}.png",))) for number in range(COUNT)))
    sent = pickle.loads(pickle.dumps(sources))
    assert sent("7") == sources("7") == Place(("/7.png",)) and sent("7#3") == sent("7") and sent("x#3") is None
    few = sources.of(["9", "8#1", "8#2", "x"])
    assert (few("9"), few("8#5"), few("7")) == (Place(("/9.png",)), Place(("/8.png",)), None)
    assert repr(few) == "<sources of 2 images>"


def test_facts_are_known_by_files() -> None:
    facts = known_files(Entries(ENTRIES))
    assert facts == {fact.file: fact for entry in ENTRIES for fact in entry.facts}


def test_a_packed_sequence_takes_anything() -> None:
    assert list(Packed([("a", None), (1, 2.5)])) == [("a", None), (1, 2.5)]
