"""Cases that are shown by their images alone, each with a few words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tasks.report.pictures import Panel, case_panels


@dataclass(frozen=True)
class Shown:
    """A case by its image: its label, a few words about the case, and the picture."""

    id: str
    label: str
    about: str
    panel: Panel


@dataclass(frozen=True)
class Group:
    """Cases that are shown together under a name, of one result by its title."""

    title: str
    name: str
    cases: list[Shown]


def show_alone(
    dataset: xr.Dataset,
    rows: NDArray[np.intp],
    row: int,
    about: str,
    marked: Callable[[xr.Dataset], xr.DataArray] | None = None,
) -> Shown:
    """Draw the image of a row of the store without maps; `rows` are the dataset's.

    What is `marked` of the image is outlined in the place of its mask.
    """
    kinds = {str(name): one.attrs.get("kind") for name, one in dataset.data_vars.items()}
    names = [name for name, kind in kinds.items() if kind in ("image", "mask")]
    one = dataset[[*names, "label"]].isel(image_id=int(np.searchsorted(rows, row))).load()
    (panel,) = case_panels(one if marked is None else one.assign(mask=marked(one)), None, [])
    return Shown(str(one["image_id"].values), str(one["label"].values), about, panel)
