"""Nearest neighbours among more vectors than can all be compared: an index of faiss proposes candidates."""

from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.results.nearest import Found, Nearest, Pairs, unknown
from models.results.retrieval import Cases

Rows = NDArray[np.intp]

_PROBED = 32
"""Lists of the index that are looked into at first; four times as many where they hold too few candidates."""

_TOGETHER = 128
"""Vectors that are looked up at once."""


def nearest_candidates(unit: NDArray[np.float32], cases: Cases, asked: Sequence[tuple[int, Pairs]]) -> list[Found]:
    """Find the nearest others, as `nearest` does, among candidates that an inverted file proposes.

    Candidates are ranked exactly; a neighbour is missed where it lies in a list that is not looked into. One thread
    makes the index, from a fixed seed, so that the result does not depend on the number of threads.
    """
    found = [unknown(len(unit), count) for count, _ in asked]
    images = np.bincount(cases.subject)[cases.subject]
    with threadpool_limits(1):
        index = _index(unit)
        for alike in _by_label(cases, images):
            for (count, pairs), (rows, cosines) in zip(asked, found, strict=True):
                allowed = np.logical_or.reduce(pairs(_of_two_subjects(alike, cases), slice(None)))
                for own in np.split(alike, range(_TOGETHER, len(alike), _TOGETHER)) if allowed.any() else ():
                    enough = min(2 * count + images[own].max(), allowed.sum())  # own subjects' are among them
                    candidates = _propose(index, unit[own], int(enough), allowed)
                    between = np.einsum("if,icf->ic", unit[own].astype(float), unit[candidates].astype(float))
                    best = Nearest(len(own), count)
                    counts = (candidates >= 0) & pairs(own, candidates)
                    best.see(candidates, np.where(counts, between, -np.inf))
                    rows[own], cosines[own] = best.found
    return found


def _index(unit: NDArray[np.float32]) -> Any:
    features, lists = unit.shape[1], int(4 * np.sqrt(len(unit)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(features), features, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # else fewer than 39 are told on standard error
    index.train(unit)
    index.add(unit)
    return index


def _by_label(cases: Cases, images: Rows) -> Iterator[Rows]:
    """Part the cases by label; those whose subjects have few images come first."""
    order = np.lexsort((images, cases.label))
    yield from np.split(order, np.flatnonzero(np.diff(cases.label[order])) + 1)


def _of_two_subjects(alike: Rows, cases: Cases) -> Rows:
    """Choose cases of one label which, together, may have every neighbour that one of them may have."""
    others = alike[cases.subject[alike] != cases.subject[alike[0]]]
    return np.array([alike[0], *others[:1]])


def _propose(index: Any, queries: NDArray[np.float32], enough: int, allowed: NDArray[np.bool_]) -> Rows:
    """Propose rows for each query, ``(query, candidate)``, in rising order; -1 where there are not as many."""
    bits = np.packbits(allowed, bitorder="little")
    for probed in [_PROBED * 4**times for times in range(16)]:
        how = faiss.SearchParametersIVF(sel=faiss.IDSelectorBitmap(bits), nprobe=min(probed, index.nlist))
        rows: Rows = np.sort(index.search(queries, enough, params=how)[1], axis=1)
        if probed >= index.nlist or (rows >= 0).all():
            break
    return rows
