"""The colour scales of the viewer: one an explainer, the same for every case of an output."""

import json

from tasks.storage.location import Location
from tasks.store.scales import Reaches

NAME = "viewer/scales.json"


def write_scales(output: Location, reaches: Reaches) -> None:
    """Write the scales of all maps, ``{array: {explainer: {"limit", "signed"}}}`` below ``scales``."""
    scales = {name: {of: reach._asdict() for of, reach in by.items()} for name, by in reaches.items()}
    (output / NAME).write(json.dumps({"scales": scales}, allow_nan=False).encode())


def remove_scales(output: Location) -> None:
    (output / NAME).remove()
