"""A finished output of as many images as one likes, in seconds: few pictures and metrics are there."""

import hashlib
from pathlib import Path

import numpy as np
import zarr

from tasks.cohort.entry import Entry
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.shards import cut
from tasks.storage.location import Location
from tasks.store.objects import NAME
from tasks.store.scales import reaches_of
from tasks.store.template import EXPLAINED, open_store, publish
from tasks.viewer import write_viewer

IMAGES_PER_SHARD = 256
_PICTURES, _NUMBERS = 32, 2048
"""Images at either end that have pictures, and such that have metrics."""


def make_large(demo: Path, output: Path, images: int) -> list[str]:
    """Make an output with the plan of a small one, and return the ids of its images."""
    location = Location(url=str(output))
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:16] for number in range(images)]
    entries = [
        Entry(id, hashlib.sha256(id.encode()).hexdigest(), "npy", ("normal", "lesion")[row % 2], subject=ids[row // 3])
        for row, id in enumerate(ids)
    ]
    small = Plan.read(Location(url=str(demo)))
    shards = cut(entries, IMAGES_PER_SHARD, small.batch_size)
    plan = small.model_copy(update={"shards": shards})
    plan.write(location, entries)
    publish(location, plan, manifest.read(location, sources=False), np.full(images, EXPLAINED, np.int8))
    _fill(zarr.open_group(output / NAME, mode="r+"), zarr.open_group(demo / NAME, mode="r"), images)
    write_viewer(location, reaches_of(open_store(location), plan.outputs.values()))
    return ids


def _fill(store: zarr.Group, demo: zarr.Group, images: int) -> None:
    random = np.random.default_rng(0)
    ends = (slice(0, _NUMBERS), slice(images - _NUMBERS, images))
    for name, array in store.arrays():
        if array.attrs.get("kind") == "metric":
            for end in ends:
                array[end] = random.random((_NUMBERS, *array.shape[1:]), np.float32)
        elif array.attrs.get("kind") in ("image", "map") and array.ndim > 3:
            array[:_PICTURES] = array[images - _PICTURES :] = demo[name][:_PICTURES]
    probability = random.random(images, np.float32)
    store["probability"][:] = np.stack([1 - probability, probability], 1)
    store["target_class"][:] = 1
