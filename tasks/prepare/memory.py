"""The memory that reading images takes a worker, by the facts of their files."""

from collections.abc import Sequence
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import flags, packed
from tasks.cohort.slides.tissue import SLIDE_BYTES
from tasks.plan.plan import Plan

DECODING = 8
"""Memory of an image while it is read, in multiples of its pixels as float32: a file of float64 voxels is held as
stored and as scaled, both twice as large, then as float32 twice, and twice in a transform."""


def reading(plan: Plan, entries: Sequence[Entry]) -> tuple[int, int]:
    """Bytes of the files of the largest batch, which are read at once, and of decoding the largest image.

    Slides are read by ranges, one after the other.
    """
    if plan.cohort.slides:
        return 0, DECODING * plan.cohort.slides.bag_bytes + SLIDE_BYTES
    largest_batch = largest_image = 0
    for shard, rows in zip(plan.shards, packed(entries).batches(plan.images_per_shard), strict=True):
        files = _Files(rows)
        largest_batch = max(largest_batch, *map(files.together, shard.batches), 0)
        largest_image = max(largest_image, int(files.decoded(plan.model.spatial_dims).max()))
    return largest_batch, DECODING * largest_image


class _Files:
    """The files of some images, one after the other, and what is known of them."""

    def __init__(self, images: pa.RecordBatch) -> None:
        self._images = images
        sources = images["sources"].flatten()
        self._kind = pc.struct_field(sources, "kind")
        self._image_of_source = pc.list_parent_indices(images["sources"]).to_numpy()
        files = pc.struct_field(sources, "files")
        self._source = pc.list_parent_indices(files).to_numpy()
        self._facts = files.flatten()
        self._bounds = np.searchsorted(self._image_of_source[self._source], np.arange(len(images) + 1)).tolist()
        self._sizes = list(zip(self._fact("file").to_pylist(), self._fact("size").to_pylist(), strict=True))

    def _fact(self, name: str) -> pa.Array:
        return pc.struct_field(self._facts, name)

    def together(self, rows: Sequence[int]) -> int:
        """Bytes of the files of some images; a file of several is read once."""
        own = (self._sizes[self._bounds[row] : self._bounds[row + 1]] for row in rows)
        return sum(dict(chain.from_iterable(own)).values())

    def decoded(self, spatial_dims: int) -> NDArray[np.int64]:
        """Bytes of each image's pixels as float32, where its files may lie on the grid of the first, and its mask's."""
        sizes = self._decoded_sources()
        by_image = partial(_summed, count=len(self._images))
        of_images, of_masks = (flags(pc.equal(self._kind, kind)) for kind in ("image", "mask"))
        owner = self._image_of_source[of_images]
        of_grid = by_image(owner, np.ones_like(owner)) * _first(owner, sizes[of_images], len(self._images))
        together = np.maximum(by_image(owner, sizes[of_images]), of_grid)
        whole = together + by_image(self._image_of_source[of_masks], sizes[of_masks])
        counts = self._fact("pictures" if spatial_dims == 2 else "volumes").to_numpy()
        frames = _first(self._image_of_source[self._source], counts, len(self._images))
        found: NDArray[np.int64] = whole // np.where(self._images["frame"].is_valid(), frames, 1)
        return found

    def _decoded_sources(self) -> NDArray[np.int64]:
        """Bytes of each source's pixels; a copy of a slice counts once."""
        codes = self._fact("digest").dictionary_encode().indices.to_numpy()
        _, first = np.unique(np.stack([self._source, codes]), axis=1, return_index=True)
        return _summed(self._source[first], self._fact("decoded").to_numpy()[first], len(self._kind))


def _summed(owner: NDArray[np.int64], values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    found = np.zeros(count, np.int64)
    np.add.at(found, owner, values)
    return found


def _first(owner: NDArray[np.int64], values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Take the first value of each owner; 0 of one that has none."""
    found = np.zeros(count, np.int64)
    found[owner[::-1]] = values[::-1]  # the last that is written stays
    return found
