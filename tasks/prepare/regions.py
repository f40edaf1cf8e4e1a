"""A check of atlases against images of the cohort, before anything is computed."""

from collections.abc import Sequence

import numpy as np

from models.errors import ConfigurationError
from tasks.cohort.entry import Entry
from tasks.cohort.sources import Find
from tasks.plan.plan import Plan
from tasks.plan.regions import Regions
from tasks.prepare.trial import try_reading


def check_atlases(plan: Plan, entries: Sequence[Entry], find: Find) -> None:
    """Hold the atlas of each result `regions` against a few images.

    Raises
    ------
    ConfigurationError
        If it reaches none of them, or none has a place in the patient.
    """
    atlases = {one.title: one.result.read_atlas() for one in plan.results if isinstance(one.result, Regions)}
    if not atlases:
        return
    affines = [image.prepared.affine for image in try_reading(plan, entries, find)]
    placed = [affine for affine in affines if np.isfinite(affine).all()]
    if affines and not placed:
        raise ConfigurationError(
            f"results: {', '.join(atlases)}: none of {len(affines)} images that were tried has an affine, so that no "
            "region has a place in them: give images with geometry (DICOM, NIfTI), or leave the result out"
        )
    grid = plan.frame.grid
    for title, atlas in atlases.items():
        if placed and all(atlas.on(affine, grid) is None for affine in placed):
            apart = min(atlas.distance(affine, grid) for affine in placed)
            raise ConfigurationError(
                f"results: {title}: the atlas, of the shape {atlas.regions.shape} (z, y, x), reaches none of "
                f"{len(placed)} images that were tried, of the shape {grid}: the nearest is {apart:.0f} mm away, from "
                "centre to centre. Give a label volume in the patient space of the images, or mend an affine"
            )
