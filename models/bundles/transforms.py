"""Dictionary transforms of a bundle as the array transforms that cohorts are prepared by."""

from collections.abc import Iterable
from typing import Any

from models.bundles.components import component, is_disabled
from models.bundles.references import Found, References

_LEFT_OUT = ("LoadImage", "EnsureChannelFirst", "AddChannel", "EnsureType", "ToTensor", "ToDevice", "Identity")
"""Transforms whose work is done by the readers, or that change no value."""

_READERS = ("NibabelReader", "ITKReader", "PydicomReader", "PILReader", "NumpyReader", "NrrdReader")

COUNTERPARTS = (
    "AdjustContrast", "Affine", "BorderPad", "CastToType", "CenterScaleCrop", "CenterSpatialCrop",
    "ClipIntensityPercentiles", "CropForeground", "DivisiblePad", "Flip", "GaussianSharpen", "GaussianSmooth",
    "HistogramNormalize", "MedianSmooth", "NormalizeIntensity", "Orientation", "RepeatChannel", "Resize",
    "ResizeWithPadOrCrop", "Rotate", "Rotate90", "SavitzkyGolaySmooth", "ScaleIntensity", "ScaleIntensityRange",
    "ScaleIntensityRangePercentiles", "Spacing", "SpatialCrop", "SpatialPad", "SqueezeDim", "StdShiftIntensity",
    "ThresholdIntensity", "Zoom",
)  # fmt: skip
"""Array transforms that do to an image what the dictionary transforms of the same name do to one key."""

_OF_DICTIONARIES = ("keys", "allow_missing_keys", "ensure_same_shape", "start_coord_key", "end_coord_key", "meta_keys")
_OF_EACH_KEY = ("mode", "padding_mode", "align_corners", "dtype")
"""Arguments of which a list has one value for each key."""


def array_transforms(references: References, chain: Found) -> list[dict[str, Any]]:
    """Translate a `Compose` of transforms of one key.

    Raises
    ------
    ConfigurationError
        If one of them has no array counterpart, is of several keys, or has an argument that is code.
    """
    found = [one for part in _flat(references, chain) if (one := _translated(references, part)) is not None]
    keys = {key for key, _ in found if key}
    if len(keys) > 1:
        raise chain.refused(
            f"the transforms are of the keys {', '.join(sorted(keys))}, and the image is one: state "
            "cohort.preprocessing"
        )
    return [transform for _, transform in found if transform]


def _flat(references: References, found: Found) -> Iterable[Found]:
    if isinstance(found.value, list):
        for number in range(len(found.value)):
            yield from _flat(references, references.inner(found, number))
        return
    target = component(references, found)
    if is_disabled(references, found):
        return
    if target.rpartition(".")[2] != "Compose":
        yield found
        return
    if other := sorted(set(found.value) - {"_target_", "transforms", "_desc_", "_mode_", "_disabled_"}):
        raise found.refused(f"`{other[0]}` of Compose is not read: state cohort.preprocessing")
    if found.value.get("transforms") is not None:
        yield from _flat(references, references.inner(found, "transforms"))


def _translated(references: References, found: Found) -> tuple[str, dict[str, Any]] | None:
    """Translate a transform; give its key, too, and nothing in place of one that is left out."""
    target = component(references, found)
    home, _, name = target.rpartition(".")
    of_dictionaries = "keys" in found.value
    array = (name.removesuffix("Dict") if name.endswith("Dict") else name[:-1]) if of_dictionaries else name
    is_monai = not home or home == "monai.transforms" or home.startswith("monai.transforms.")
    if not of_dictionaries and array not in _LEFT_OUT:
        arguments = {one: references.whole(references.inner(found, one)) for one in _arguments(found)}
        return "", {"_target_": target if home else f"monai.transforms.{name}", **arguments}
    if is_monai and array == "LoadImage":
        _check_loading(references, found)
    if is_monai and array in _LEFT_OUT:
        _check_type(references, found)
        return None
    if not is_monai or array not in COUNTERPARTS:
        raise found.refused(
            f"`_target_: {target}` has no counterpart that works on an array alone: state cohort.preprocessing"
        )
    key = _key(references, found, target)
    arguments = {}
    for one in _arguments(found):
        value = references.whole(references.inner(found, one))
        if one == "source_key":
            if value != key:
                raise found.refused(f"`_target_: {target}` looks at another key: state cohort.preprocessing")
        elif one not in _OF_DICTIONARIES:
            arguments[one] = _of_the_key(found, one, value)
    return key, {"_target_": f"monai.transforms.{array}", **arguments}


def _arguments(found: Found) -> list[str]:
    return [name for name in found.value if name not in ("_target_", "_desc_", "_mode_", "_disabled_", "_requires_")]


def _key(references: References, found: Found, target: str) -> str:
    keys = references.whole(references.inner(found, "keys"))
    names = keys if isinstance(keys, list) else [keys]
    if len(names) != 1 or not isinstance(names[0], str):
        raise found.refused(
            f"`_target_: {target}` is of the keys {keys!r:.60}, and the image is one: state cohort.preprocessing"
        )
    return names[0]


def _of_the_key(found: Found, name: str, value: Any) -> Any:
    if name not in _OF_EACH_KEY or not isinstance(value, list):
        return value
    if len(value) != 1:
        raise found.refused(f"`{name}` has {len(value)} values for one key: leave one")
    return value[0]


def _check_loading(references: References, found: Found) -> None:
    """Check that the readers here give what the bundle's would."""
    reader = found.value.get("reader") and references.whole(references.inner(found, "reader"))
    if reader and str(reader).removeprefix("monai.data.").removeprefix("image_reader.") not in _READERS:
        raise found.refused(f"images are read by another reader, {reader!r:.60}: state cohort.preprocessing")
    for name in ("reverse_indexing", "converter", "series_name", "channel_dim", "squeeze_non_spatial_dims"):
        if name in found.value:
            raise found.refused(f"`{name}` changes how images are read: state cohort.preprocessing")


def _check_type(references: References, found: Found) -> None:
    """Check that an image is not rounded to other numbers than those of preprocessing here."""
    told = references.whole(references.inner(found, "dtype")) if "dtype" in found.value else None
    for dtype in told if isinstance(told, list) else [told]:
        if dtype and str(dtype).rpartition(".")[2] != "float32":
            raise found.refused(f"images are made {dtype!r:.60}, and here float32: state cohort.preprocessing")
