"""Nearest neighbours by cosine: exact, in blocks, and the same to the last bit whatever the blocks are."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.results.base import Stored

Pairs = Callable[[Any, Any], NDArray[np.bool_]]
"""A function that tells which pairs of vectors count, ``(row, other)``, from slices or arrays of rows; others may be an
array ``(row, other)``."""

Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Rows of the nearest others, ``(row, neighbour)``, -1 where there is none, and the cosines in [-1, 1], NaN there."""

BLOCK = 2048
_GRAIN = 2.0**24


def directions(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale vectors ``(image, feature)`` to unit length, rounded to multiples of ``2^-24``; NaN where there is none.

    Sums of products of such numbers are multiples of ``2^-48`` below 2, which double precision holds exactly: so a
    cosine does not depend on the order in which a matrix product adds up. Rounding changes it by some ``1e-7``.
    """
    wide = vectors.astype(np.float64)
    strongest = np.abs(wide).max(1, keepdims=True, initial=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        wide /= np.where(np.isfinite(strongest), strongest, np.nan)
        wide /= np.sqrt(np.square(wide).sum(1, keepdims=True))
    return (np.round(wide * _GRAIN) / _GRAIN).astype(np.float32)


def stored_directions(
    stored: Stored, of: str, made: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
) -> NDArray[np.float32]:
    """Read the `directions` of every row of a stored output, ``(image, feature)``; NaN where there is no explanation.

    Parameters
    ----------
    made
        A function that makes the vectors, ``(image, ...)``, of the values of some rows.
    """
    unit: NDArray[np.float32] | None = None
    for rows, block in stored.blocks(of):
        vectors = made(block[of])
        of_block = directions(vectors.reshape(len(vectors), -1))
        if unit is None:
            unit = np.full((len(stored.ids), of_block.shape[1]), np.nan, np.float32)
        unit[rows] = np.where(stored.explained[rows, None], of_block, np.nan)
    return np.empty((0, 1), np.float32) if unit is None else unit


class Nearest:
    """The nearest of what was seen so far; of equals the one of the lower row.

    Attributes
    ----------
    rows
        ``(query, neighbour)`` int32, the nearest first; -1 where there are not as many.
    cosines
        ``(query, neighbour)`` float64; -inf where there is none.
    """

    def __init__(self, queries: int, neighbours: int) -> None:
        self.rows = np.full((queries, neighbours), -1, np.int32)
        self.cosines = np.full((queries, neighbours), -np.inf)

    def see(self, rows: NDArray[np.integer], cosines: NDArray[np.float64]) -> None:
        """Take rows, for all or for each query, and their cosines ``(query, row)``, of which -inf does not count.

        Rows rise, and are greater than those before.
        """
        better = np.flatnonzero(cosines.max(1) > self.cosines[:, -1])
        every = np.arange(len(better))
        known = np.concatenate([self.cosines[better], cosines[better]], axis=1)
        named = np.concatenate([self.rows[better], np.broadcast_to(rows, cosines.shape)[better]], axis=1)
        for place in range(self.rows.shape[1]):
            first = known.argmax(1)
            found = known[every, first]
            self.rows[better, place] = np.where(np.isfinite(found), named[every, first], -1)
            self.cosines[better, place] = found
            known[every, first] = -np.inf

    @property
    def found(self) -> Found:
        cosines = np.where(np.isfinite(self.cosines), np.clip(self.cosines, -1, 1), np.nan)
        return self.rows, cosines.astype(np.float32)


def unknown(rows: int, neighbours: int) -> Found:
    """Make the arrays for what is to be found."""
    return np.full((rows, neighbours), -1, np.int32), np.full((rows, neighbours), np.nan, np.float32)


def nearest(unit: NDArray[np.float32], asked: Sequence[tuple[int, Pairs]], block: int = BLOCK) -> list[Found]:
    """Find the nearest others of each vector by cosine.

    Parameters
    ----------
    unit
        Finite `directions`, ``(row, feature)``.
    asked
        How many neighbours are asked for, at least one, and which pairs count; more than one such question shares the
        cosines.
    block
        How many rows are compared with as many others at once. It decides about memory, never about the result.

    Returns
    -------
    list
        What is found for each question.
    """
    found = [unknown(len(unit), count) for count, _ in asked]
    blocks = [slice(start, min(start + block, len(unit))) for start in range(0, len(unit), block)]
    for own in blocks:
        best = [Nearest(own.stop - own.start, count) for count, _ in asked]
        queries = unit[own].astype(np.float64)
        for others in blocks:
            rows, cosines = np.arange(others.start, others.stop, dtype=np.int32), queries @ unit[others].T.astype(float)
            for one, (_, pairs) in zip(best, asked, strict=True):
                one.see(rows, np.where(pairs(own, others), cosines, -np.inf))
        for one, (known_rows, known_cosines) in zip(best, found, strict=True):
            known_rows[own], known_cosines[own] = one.found
    return found
