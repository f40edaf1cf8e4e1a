"""Maps of slides as pictures of the whole: each tile's mean value, painted at its place."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import xarray as xr
from numpy.typing import NDArray

from models.errors import ConfigurationError
from tasks.cohort.slides.outputs import PICTURE, POSITION, RESOLUTION, SIDE, SIZE
from tasks.cohort.slides.tissue import OVERVIEW
from tasks.storage.location import Location
from tasks.store.template import open_store

_TILE_PIXELS = 16
_PAGE_TILE = 256


def is_slide(dataset: xr.Dataset) -> bool:
    return PICTURE in dataset


def tile_values(dataset: xr.Dataset) -> xr.DataArray:
    """Take the mean of each map over each tile: ``(..., target, explainer, z)``; of attention, the tile's weight."""
    return dataset["attribution"].mean(("y", "x"))


def share_on_white(image: xr.Dataset, values: NDArray[np.floating]) -> float:
    """Compute the share of the magnitude of ``(z,)`` values that lies on tiles which fill up the bag."""
    magnitude = np.abs(values)
    whole = magnitude.sum()
    return float(magnitude[_fills(image)].sum() / whole) if whole else 0.0


def overview(image: xr.Dataset) -> NDArray[np.uint8]:
    """Take ``(y, x, RGB)`` of a slide, without the white that fills up the square."""
    height, width = _scaled(image, int(image[SIZE].max()) / OVERVIEW)
    return np.moveaxis(image[PICTURE].values[:, :height, :width], 0, -1)


def on_overview(image: xr.Dataset, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Paint ``(z,)`` values over the overview; NaN where there is no tile."""
    return _painted(image, values, int(image[SIZE].max()) / OVERVIEW)


def write_slide_map(output: Location, id: str, path: Path, target: int = 0) -> None:
    """Write the maps of one slide as a pyramid that viewers lay over it: an OME-TIFF with a channel an explainer.

    A tile has 16 x 16 pixels or so of the finest level, whose size in microns is stated; its value is the mean of the
    map over the tile. Where there is no tile, the map is NaN.

    Parameters
    ----------
    id
        The image's name in the output.
    path
        The file that is written.
    target
        Number along `target`.

    Raises
    ------
    ConfigurationError
        If the output holds no such slide with maps.
    """
    dataset = open_store(output)
    if not is_slide(dataset) or "attribution" not in dataset:
        raise ConfigurationError(f"output {output} holds no maps of slides (cohort.slides)")
    if id not in dataset["image_id"].values or int((one := dataset.sel(image_id=id))[SIZE].max()) < 1:
        raise ConfigurationError(
            f"output {output} holds no slide {id!r} that was explained: see `image_id` and `status`"
        )
    if not 0 <= target < dataset.sizes["target"]:
        raise ConfigurationError(f"there is no target {target}: the output has {dataset.sizes['target']}, from 0")
    values = tile_values(one.isel(target=target)).values
    scale = float(one[SIDE]) / _TILE_PIXELS
    finest = np.stack([_painted(one, own, scale) for own in values]).astype(np.float32)
    microns = float(one[RESOLUTION]) * scale
    _write_pyramid(path, finest, [str(name) for name in one["explainer"].values], microns)


def _write_pyramid(path: Path, finest: NDArray[np.float32], names: list[str], microns: float) -> None:
    levels = [finest]
    while max(levels[-1].shape[1:]) > _PAGE_TILE:
        levels.append(_halved(levels[-1]))
    metadata: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": names}}
    if np.isfinite(microns):
        size = {f"PhysicalSize{axis}": microns for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
        metadata |= size
    how: dict[str, Any] = {"tile": (_PAGE_TILE, _PAGE_TILE), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(finest, subifds=len(levels) - 1, metadata=metadata, **how)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **how)


def _halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the mean of each 2 x 2 pixels, of those that are finite."""
    rows, columns = (-(-side // 2) for side in values.shape[1:])
    padded = np.full((len(values), 2 * rows, 2 * columns), np.nan, np.float32)
    padded[:, : values.shape[1], : values.shape[2]] = values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing, which are NaN
        return np.nanmean(padded.reshape(len(values), rows, 2, columns, 2), (2, 4)).astype(np.float32)


def _painted(image: xr.Dataset, values: NDArray[np.floating], scale: float) -> NDArray[np.floating]:
    """Paint values on a picture of which a pixel is `scale` of the slide's finest."""
    found = np.full(_scaled(image, scale), np.nan)
    fills = _fills(image)
    corners = image[POSITION].values
    edges = np.round(np.stack([corners, corners + float(image[SIDE])]) / scale).astype(int)
    for value, fill, (top, left), (bottom, right) in zip(values, fills, *edges, strict=True):
        if not fill:
            found[top : max(bottom, top + 1), left : max(right, left + 1)] = value
    return found


def _fills(image: xr.Dataset) -> NDArray[np.bool_]:
    fills: NDArray[np.bool_] = image[POSITION].values[:, 0] < 0
    return fills


def _scaled(image: xr.Dataset, scale: float) -> tuple[int, int]:
    height, width = (max(1, round(int(side) / scale)) for side in image[SIZE].values)
    return height, width
