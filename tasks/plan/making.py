"""Making a plan: images are cut into shards, and explainers declare what they store."""

import math
import platform
from collections.abc import Sequence
from importlib.metadata import version

from models.explainers.base import Explainer, MapExplainer
from models.network import Network
from models.outputs import Frame, Output, joined
from models.prediction import declare_prediction, declare_source
from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import packed
from tasks.cohort.pseudonyms import Key
from tasks.cohort.slides.outputs import declare_slide
from tasks.plan.plan import Plan, frame_of
from tasks.plan.planned import Part
from tasks.plan.recipe import Recipe
from tasks.plan.shards import cut, images_per_shard


def make_plan(recipe: Recipe, entries: Sequence[Entry], network: Network, *, key: Key) -> Plan:
    """Cut `entries`, in their order, into shards, and let the explainers declare what they store.

    The size of a shard depends on the work alone, never on the workers.
    """
    masks = any(packed(entries).columns("mask"))
    maps = tuple(explainer.title for explainer in recipe.explainers if isinstance(explainer, MapExplainer))
    frame = frame_of(recipe, maps, segments=network.segments, masks=masks)
    of_slides = declare_slide() if recipe.cohort.slides else ()
    channels, targets, grid_bytes = len(frame.channels), len(frame.targets), math.prod(frame.grid) * 4
    grids = max(len(maps) * targets * (1 + channels * frame.keeps_channels), channels)
    largest = max(targets * (channels if frame.keeps_channels else 1), channels)
    size = images_per_shard(len(entries), grids * grid_bytes, largest * grid_bytes)
    return Plan(
        shards=cut(entries, size, recipe.model.tiles.at_once(recipe.batch_size)),
        cohort=recipe.cohort,
        model=recipe.model,
        target=recipe.target,
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        channels=recipe.channels,
        grid=frame.grid,
        masks=masks,
        segments=network.segments,
        parts=(make_part(recipe.explainers, frame, network, first=True, beside=of_slides),),
        key=key,
        versions=_versions(),
    )


def make_part(
    explainers: Sequence[Explainer], frame: Frame, network: Network, *, first: bool, beside: Sequence[Output] = ()
) -> Part:
    """Let explainers declare what they store; the `first` part holds the images and predictions, too.

    Parameters
    ----------
    beside
        What is stored beside the images as they are explained.
    """
    common = (*declare_source(frame), *beside, *declare_prediction(frame)) if first else ()
    declared = joined(common, *(explainer.declare(frame, network) for explainer in explainers))
    return Part(explainers=tuple(explainers), outputs=tuple(declared.values()))


def _versions() -> dict[str, str]:
    packages = ("cohortlens", "torch", "monai", "zarr", "xarray", "numpy", "pydicom", "nibabel", "pillow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
