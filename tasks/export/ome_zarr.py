"""OME-Zarr 0.5: a case a group, image and maps as its channels, masks and drawn regions as its labels."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from tasks.export.case import Case
from tasks.export.drawn import names_of
from tasks.export.format import Format
from tasks.export.names import stem

_SMALLEST = 64
"""The last level of a pyramid has no side that is longer, of those that are halved."""

_CHUNK = {"c": 1, "z": 64, "y": 256, "x": 256}
_COLOURS = ("FF4040", "40C0FF", "FFC040", "60E060", "E060E0", "40E0D0")
_LABEL_COLOUR = (255, 160, 0, 255)


class OmeZarr(Format):
    """One group ``<id>.ome.zarr`` with an array ``(c, [z,] y, x)`` of float32 at each level of its pyramid.

    The first channels are the image's, in the source's units; then comes one a map, signed, and 0 where the network was
    not shown the image. A level halves the axes that are not yet half as coarse again as the finest: maps by the mean,
    so that their sign is kept, and labels by the largest, so that a small region is in all levels.

    OME-Zarr 0.5 knows spacing and no direction. The affine from the index (z, y, x) of the first level to RAS mm is in
    the group's attribute ``cohortlens``.
    """

    name = "ome-zarr"
    shows_drawn = True
    package, extra = "ome_zarr_models", "ome-zarr"

    def write(self, case: Case, folder: Path) -> None:
        levels = _levels(case)
        group = zarr.open_group(folder / f"{stem(case.id)}.ome.zarr", mode="w-", zarr_format=3)
        group.attrs.update({"ome": _image_attributes(case, levels), "cohortlens": _own_attributes(case)})
        channels = len(case.pixels) + len(case.maps)
        arrays = _arrays(group, levels, np.dtype(np.float32), channels)
        for number in range(channels):
            own = number - len(case.pixels)
            values = case.pixels[number] if own < 0 else case.maps[own].values
            for level, array in zip(levels, arrays, strict=True):
                values = _reduced(values, level.factors, np.mean)
                array[number] = values
        _write_labels(case, group, levels)


class _Level(NamedTuple):
    """One level of a pyramid: its sides, by how much each axis was halved, spacing, and the place of its first voxel.

    Spacing and place are in mm of the first level, or in its voxels where the source has no geometry.
    """

    shape: tuple[int, ...]
    factors: tuple[int, ...]
    spacing: tuple[float, ...]
    first: tuple[float, ...]


def _levels(case: Case) -> list[_Level]:
    rank = len(case.space)
    spacing = np.ones(rank)
    if case.affine is not None:
        spacing = np.linalg.norm(case.affine[:3, 3 - rank : 3], axis=0)
    level = _Level(case.space, (1,) * rank, tuple(spacing.tolist()), (0.0,) * rank)
    levels = [level]
    while True:
        finest = min(level.spacing)
        factors = [
            2 if side > _SMALLEST and own < 1.5 * finest else 1
            for side, own in zip(level.shape, level.spacing, strict=True)
        ]
        if max(factors) == 1:
            return levels
        level = _Level(
            tuple(-(-side // factor) for side, factor in zip(level.shape, factors, strict=True)),
            tuple(factors),
            tuple(own * factor for own, factor in zip(level.spacing, factors, strict=True)),
            tuple(
                at + own * (factor - 1) / 2 for at, own, factor in zip(level.first, level.spacing, factors, strict=True)
            ),
        )
        levels.append(level)


def _reduced(values: NDArray[Any], factors: Sequence[int], reduce: Any) -> NDArray[Any]:
    """Reduce blocks of voxels to one; at an odd end the last voxel counts twice."""
    if max(factors) == 1:
        return values
    odd = [(0, -side % factor) for side, factor in zip(values.shape, factors, strict=True)]
    padded = np.pad(values, odd, mode="edge")
    slices = [
        padded[tuple(slice(at, None, step) for at, step in zip(start, factors, strict=True))]
        for start in product(*map(range, factors))
    ]
    return reduce(slices, axis=0).astype(values.dtype)


def _arrays(group: Any, levels: Sequence[_Level], dtype: np.dtype[Any], channels: int = 0) -> list[Any]:
    """Create an array a level, of `channels` if there are any."""
    names = (*"c" * bool(channels), *"zyx"[3 - len(levels[0].shape) :])
    made = []
    for number, level in enumerate(levels):
        shape = (channels, *level.shape) if channels else level.shape
        chunks = tuple(min(_CHUNK[name], side) for name, side in zip(names, shape, strict=True))
        made.append(
            group.create_array(
                str(number), shape=shape, chunks=chunks, dtype=dtype, dimension_names=names, fill_value=0
            )
        )
    return made


def _multiscale(case: Case, levels: Sequence[_Level], reduced_by: str, *, has_channels: bool) -> Any:
    from ome_zarr_models.v05.axes import Axis
    from ome_zarr_models.v05.multiscales import Dataset, Multiscale

    unit = None if case.affine is None else "millimeter"
    one, zero = ([1.0], [0.0]) if has_channels else ([], [])
    return Multiscale(
        name=case.id,
        axes=[
            *([Axis(name="c", type="channel")] if has_channels else []),
            *(Axis(name=name, type="space", unit=unit) for name in "zyx"[3 - len(levels[0].shape) :]),
        ],
        datasets=tuple(
            Dataset.build(path=str(number), scale=[*one, *level.spacing], translation=[*zero, *level.first])
            for number, level in enumerate(levels)
        ),
        type=reduced_by,
    )


def _image_attributes(case: Case, levels: Sequence[_Level]) -> dict[str, Any]:
    from ome_zarr_models.v05.image import ImageAttrs

    multiscale = _multiscale(case, levels, "mean", has_channels=True)
    found = ImageAttrs(version="0.5", multiscales=[multiscale]).model_dump(exclude_none=True, by_alias=True)
    return {**found, "omero": {"channels": _shown(case)}}


def _shown(case: Case) -> list[dict[str, Any]]:
    """Say how viewers show the channels at first: the image and the first map, by scales that all cases share."""
    red_green_blue = ("FF0000", "00FF00", "0000FF")
    colours = red_green_blue if len(case.pixels) == 3 and len(case.space) == 2 else ("FFFFFF",) * len(case.pixels)
    found = []
    names = [f"image {name}" for name in case.channels] if len(case.pixels) > 1 else ["image"]
    for name, values, colour in zip(names, case.pixels, colours, strict=True):
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (0.5, 99.5)).tolist() if known.size else (0.0, 1.0)
        found.append(_channel(name, colour, low, high, is_active=True))
    for number, one in enumerate(case.maps):
        colour = _COLOURS[number % len(_COLOURS)]
        found.append(_channel(one.title, colour, *one.scale.ends, is_active=number == 0))
    return found


def _channel(label: str, colour: str, low: float, high: float, *, is_active: bool) -> dict[str, Any]:
    window = {"start": low, "end": high, "min": low, "max": high}
    return {"label": label, "color": colour, "active": is_active, "window": window}


def _own_attributes(case: Case) -> dict[str, Any]:
    return {
        "affine": None if case.affine is None else case.affine.tolist(),
        "label": case.entry.label,
        "flags": list(case.flags),
        "words": case.words,
        "scores": dict(case.scores),
        "left_out": list(case.left_out),
        **({"regions_left_out": list(case.lost)} if case.lost else {}),
    }


def _write_labels(case: Case, group: Any, levels: Sequence[_Level]) -> None:
    from ome_zarr_models.v05.labels import LabelsAttrs

    masks = {"reference": case.mask, "seen": None if case.seen.all() else case.seen}
    there = {name: mask for name, mask in masks.items() if mask is not None}
    drawn = names_of(case.drawn)
    if not there and not drawn:
        return
    of_labels = group.create_group("labels")
    of_labels.attrs["ome"] = LabelsAttrs(version="0.5", labels=[*there, *drawn]).model_dump()
    for name, values in there.items():
        _write_label(case, of_labels.create_group(name), levels, values, _LABEL_COLOUR)
    for number, (name, one) in enumerate(zip(drawn, case.drawn, strict=True)):
        colour = (*bytes.fromhex(_COLOURS[number % len(_COLOURS)]), 255)
        said = {"rater": one.rater, "rating": one.rating, "time": one.time}
        said |= {"target": one.target, "explained": one.explained} if one.target else {}
        _write_label(case, of_labels.create_group(name), levels, one.values, colour, said)


def _write_label(
    case: Case,
    group: Any,
    levels: Sequence[_Level],
    values: NDArray[np.bool_],
    colour: tuple[int, ...],
    said: Mapping[str, str] | None = None,
) -> None:
    """Write one label; `said` are its properties."""
    from ome_zarr_models.v05.image_label import ImageLabelAttrs

    shown: dict[str, Any] = {"colors": [{"label-value": 1, "rgba": colour}], "source": {"image": "../../"}}
    if said:
        shown["properties"] = [{"label-value": 1, **said}]
    multiscale = _multiscale(case, levels, "max", has_channels=False)
    attributes = ImageLabelAttrs.model_validate({"version": "0.5", "image-label": shown, "multiscales": [multiscale]})
    group.attrs["ome"] = attributes.model_dump(exclude_none=True, by_alias=True)
    reduced = values.view(np.uint8)
    for level, array in zip(levels, _arrays(group, levels, np.dtype(np.uint8)), strict=True):
        reduced = _reduced(reduced, level.factors, np.max)
        array[...] = reduced
