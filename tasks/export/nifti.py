"""NIfTI: one file a map, as 3D Slicer, ITK-SNAP and FSLeyes lay them over the image."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from tasks.export.case import Case, Map
from tasks.export.drawn import DrawnRegion, names_of
from tasks.export.format import Format
from tasks.export.names import labels, named, stem

_SCANNER = 1
"""NIfTI's code of patient coordinates as the scanner has them."""

_PERPENDICULAR = 1e-4
"""Cosines of two axes that differ by less from 0 are those of a grid without shear, which a qform can hold."""


class Nifti(Format):
    """Maps as float32, signed, masks and drawn regions as uint8: each a file beside a JSON of its name, as BIDS has it.

    The affine is the source's. A picture is a volume of one slice; a source without geometry has neither sform nor
    qform. Readers of NIfTI know no missing values: a map is 0 where the network was not shown the image, and
    `desc-seen_mask` says where it was, if that is not everywhere. `cal_min` and `cal_max` are the ends of the colours,
    the same in all cases.
    """

    name = "nifti"
    shows_drawn = True

    def write(self, case: Case, folder: Path) -> None:
        begin = stem(case.id)
        for one, name in zip(case.maps, _names(case.maps), strict=True):
            image = _image(one.values, case)
            image.header["cal_min"], image.header["cal_max"] = one.scale.ends
            _save(image, folder / f"{begin}_{name}_map", _about(one))
        if case.mask is not None:
            about = {"Description": "reference region as metrics were given it", "Type": "ROI"}
            _save(_image(case.mask.view(np.uint8), case), folder / f"{begin}_desc-reference_mask", about)
        if not case.seen.all():
            about = {"Description": "where the network was shown the image", "Type": "ROI"}
            _save(_image(case.seen.view(np.uint8), case), folder / f"{begin}_desc-seen_mask", about)
        for drawn, name in zip(case.drawn, names_of(case.drawn), strict=True):
            _save(_image(drawn.values.view(np.uint8), case), folder / f"{begin}_{name}_mask", _about_drawn(drawn))
        (folder / f"{begin}_scores.json").write_text(_json(_scores(case)))


def _names(maps: tuple[Map, ...]) -> list[str]:
    """Name maps by what they are of."""
    return named(
        {
            "target": labels([one.target for one in maps]),
            "channel": labels([one.channel for one in maps]),
            "stat": labels([one.output.removeprefix("attribution").strip("_") for one in maps]),
            "desc": labels([one.explainer for one in maps]),
        }
    )


def _image(values: NDArray[np.generic], case: Case) -> nibabel.Nifti1Image:
    """Make an image ``(x, y, z)`` of values ``([z,] y, x)``."""
    volume = values.reshape((*[1] * (3 - values.ndim), *values.shape)).T
    image = nibabel.Nifti1Image(volume, None)
    image.header.set_xyzt_units("mm")
    if case.affine is None:
        return image
    affine = case.affine[:, [2, 1, 0, 3]]
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    image.set_sform(affine, _SCANNER)
    is_straight = np.abs(axes.T @ axes - np.eye(3)).max() < _PERPENDICULAR
    image.set_qform(affine, _SCANNER if is_straight else 0)
    return image


def _save(image: nibabel.Nifti1Image, path: Path, about: Mapping[str, Any]) -> None:
    nibabel.save(image, path.with_name(f"{path.name}.nii.gz"))
    path.with_name(f"{path.name}.json").write_text(_json(about))


def _about(one: Map) -> dict[str, Any]:
    return {
        "Description": one.about,
        "Explainer": one.explainer,
        "Target": one.target,
        "Explained": one.explained,
        **({"Channel": one.channel} if one.channel else {}),
        "SpatialReference": "orig",
        "Interpolation": "none" if one.way.is_exact else "linear",
        "OutsideOfTheNetworksInput": 0,
        "Flags": list(one.flags),
        "Limit": one.scale.limit,
    }


def _about_drawn(drawn: DrawnRegion) -> dict[str, Any]:
    return {
        "Description": "region that a rater drew on the network's grid",
        "Type": "ROI",
        "Rater": drawn.rater,
        "Rating": drawn.rating,
        "Time": drawn.time,
        **({"Target": drawn.target, "Explained": drawn.explained} if drawn.target else {}),
        "SpatialReference": "orig",
        "Interpolation": "none" if drawn.way.is_exact else "nearest",
    }


def _scores(case: Case) -> dict[str, Any]:
    return {
        "Image": case.id,
        "Label": case.entry.label,
        "Flags": list(case.flags),
        "Words": case.words,
        "MapsLeftOutAsNotFinite": list(case.left_out),
        **({"RegionsLeftOutAsOnNoVoxel": list(case.lost)} if case.lost else {}),
        **case.scores,
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
