"""Sequences and mappings for millions of things: held as compressed blocks, and made one block at a time."""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice
from operator import eq
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

T = TypeVar("T")

_BLOCK = 32
"""Items of a block, which a look-up out of order unpacks all; 512 take twenty times as long for a tenth less memory."""
_ZSTD = "zstd", 2


class Packed(Sequence[T]):
    """A sequence that is read mostly from its begin to its end, and keeps one block of its items unpacked.

    It stays as it was made.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._blocks: list[tuple[int, bytes]] = []
        count, left = 0, iter(items)
        while block := list(islice(left, _BLOCK)):
            data = pickle.dumps(block)
            self._blocks.append((len(data), pa.Codec(*_ZSTD).compress(data, asbytes=True)))
            count += len(block)
        self._places = range(count)
        self._at_hand: tuple[int, list[T]] = (-1, [])

    def _block(self, number: int) -> list[T]:
        size, data = self._blocks[number]
        items: list[T] = pickle.loads(pa.Codec(*_ZSTD).decompress(data, size))
        return items

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(map(self._block, range(len(self._blocks))))

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> list[T]: ...

    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self[one] for one in self._places[place]]
        number, within = divmod(self._places[place], _BLOCK)
        at_hand = self._at_hand  # of several threads, each takes one look
        if at_hand[0] != number:
            at_hand = self._at_hand = number, self._block(number)
        return at_hand[1][within]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Index:
    """Places of names, in twelve bytes a name: it knows hashes, and asks for the names that have the same.

    Parameters
    ----------
    names
        The names in their order.
    name_at
        Gives the name at a place once more.
    """

    def __init__(self, names: Iterable[str], name_at: Callable[[int], str]) -> None:
        hashes = _hashes(names)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._order, self._name_at = hashes[order], order.astype(np.uint32), name_at
        self._next = 0

    def find(self, name: str) -> int | None:
        """Find the last place that has a name; that after the one found before is found soonest."""
        guess = self._next
        if not self.repeats and guess < len(self._order) and self._name_at(guess) == name:
            self._next = guess + 1
            return guess
        wanted = _hashes([name])[0]
        place = int(np.searchsorted(self._hashes, wanted, "right")) - 1
        while place >= 0 and self._hashes[place] == wanted:
            found = int(self._order[place])
            if self._name_at(found) == name:
                self._next = found + 1
                return found
            place -= 1
        return None

    @cached_property
    def repeats(self) -> int:
        """The number of places whose name a later one has, too."""
        equal = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        places = self._order[np.union1d(equal, equal + 1)].tolist()
        return len(places) - len({self._name_at(place) for place in places})


class PackedMapping(Mapping[str, T]):
    """Things by name; of several with one name the last counts.

    Each has a pickle of its own: a look-up out of order unpacks a block of bytes, and makes one thing.
    """

    def __init__(self, items: Iterable[tuple[str, T]] = ()) -> None:
        self._pickles = Packed((name, pickle.dumps(thing)) for name, thing in items)
        self._index = Index((name for name, _ in self._pickles), self._name_at)

    def _name_at(self, place: int) -> str:
        return self._pickles[place][0]

    @property
    def repeats(self) -> int:
        """The number of things whose place another of the same name has taken."""
        return self._index.repeats

    def __getitem__(self, name: str) -> T:
        place = self._index.find(name)
        if place is None:
            raise KeyError(name)
        thing: T = pickle.loads(self._pickles[place][1])
        return thing

    def __iter__(self) -> Iterator[str]:
        for place, (name, _) in enumerate(self._pickles):
            if not self.repeats or self._index.find(name) == place:
                yield name

    def __len__(self) -> int:
        return len(self._pickles) - self.repeats


def _hashes(names: Iterable[str]) -> NDArray[np.uint64]:
    """Eight bytes of each name's BLAKE2b, which are the same in every process."""
    digests = bytearray()
    for name in names:
        digests += blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return np.frombuffer(bytes(digests), np.uint64)
