"""The colour scales of the viewer: one an explainer, the same for every case of an output."""

import json

import numpy as np
import xarray as xr

from models.outputs import EXPLAINER, IMAGE_ID
from tasks.storage.location import Location
from tasks.store.scales import reach_of
from tasks.store.template import EXPLAINED, open_store

NAME = "viewer/scales.json"


def write_scales(output: Location) -> None:
    """Write the scales of all maps, ``{array: {explainer: {"limit", "signed"}}}`` below ``scales``."""
    dataset = open_store(output)
    explained = np.flatnonzero(dataset["status"].values == EXPLAINED)
    scales = {str(name): reach_of(one, explained) for name, one in dataset.data_vars.items() if _is_map(one)}
    content = {"scales": {name: {of: reach._asdict() for of, reach in by.items()} for name, by in scales.items()}}
    (output / NAME).write(json.dumps(content, allow_nan=False).encode())


def remove_scales(output: Location) -> None:
    (output / NAME).remove()


def _is_map(one: xr.DataArray) -> bool:
    return one.dims[0] == IMAGE_ID and EXPLAINER in one.dims and {"y", "x"} <= set(one.dims)
