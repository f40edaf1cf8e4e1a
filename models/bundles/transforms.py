"""Dictionary transforms of a bundle as the array transforms that cohorts are prepared by."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from models.bundles.components import component, is_disabled
from models.bundles.references import Found, References
from models.errors import ConfigurationError

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


class _Transform(NamedTuple):
    """A transform of the chain: where it stands, its class, and the keys that it is of, none if it takes an array."""

    found: Found
    target: str
    keys: tuple[str, ...]

    @property
    def array(self) -> str:
        """The name of the array transform."""
        name = self.target.rpartition(".")[2]
        return (name.removesuffix("Dict") if name.endswith("Dict") else name[:-1]) if self.keys else name

    @property
    def is_monai(self) -> bool:
        home = self.target.rpartition(".")[0]
        return not home or home == "monai.transforms" or home.startswith("monai.transforms.")

    def check(self) -> None:
        """Refuse what does not do to an array what it does to a key."""
        if self.keys and not (self.is_monai and self.array in (*COUNTERPARTS, *_LEFT_OUT)):
            raise self.found.refused(
                f"`_target_: {self.target}` has no counterpart that works on an array alone: state cohort.preprocessing"
            )


def array_transforms(references: References, chain: Found, image: str = "image") -> list[dict[str, Any]]:
    """Translate what a `Compose` does to the image.

    Parameters
    ----------
    image
        The key of the image, if there are several; what is done to others alone, such as a label, is left out.

    Raises
    ------
    ConfigurationError
        If one of the transforms has no array counterpart or an argument that is code, or none of several keys is the
        image's.
    """
    parts = [_transform(references, found) for found in _flat(references, chain)]
    keys = sorted({key for part in parts for key in part.keys})
    if len(keys) > 1 and image not in keys:
        for part in parts:
            part.check()
        raise chain.refused(
            f"the transforms are of the keys {', '.join(keys)}, and none is {image!r}, the image of the metadata: "
            "state cohort.preprocessing"
        )
    key = image if image in keys else next(iter(keys), image)
    translated = (_translated(references, part, key) for part in parts)
    return [transform for transform in translated if transform is not None]


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


def _transform(references: References, found: Found) -> _Transform:
    target = component(references, found)
    if "keys" not in found.value:
        return _Transform(found, target, ())
    told = references.whole(references.inner(found, "keys"))
    keys = tuple(told) if isinstance(told, list) else (told,)
    if not keys or not all(isinstance(key, str) for key in keys):
        raise found.refused(f"`keys` are {told!r:.60}, and names were expected: state cohort.preprocessing")
    return _Transform(found, target, keys)


def _translated(references: References, part: _Transform, key: str) -> dict[str, Any] | None:
    """Translate what a transform does to the value of a key; None if nothing, or if the readers do it."""
    found, array = part.found, part.array
    given = [name for name in found.value if name not in ("_target_", "_desc_", "_mode_", "_disabled_", "_requires_")]
    if part.keys and key not in part.keys:
        _check_other(references, part, given, key)
        return None
    part.check()
    if part.is_monai and array == "LoadImage":
        _check_loading(references, found)
    if part.is_monai and array in _LEFT_OUT:
        _check_type(references, part, key)
        return None
    values = {name: references.whole(references.inner(found, name)) for name in given}
    if not part.keys:
        return {"_target_": part.target if "." in part.target else f"monai.transforms.{part.target}", **values}
    if values.pop("source_key", key) != key:
        raise found.refused(f"`_target_: {part.target}` looks at another key: state cohort.preprocessing")
    kept = {name: _of_the_key(part, name, value, key) for name, value in values.items() if name not in _OF_DICTIONARIES}
    return {"_target_": f"monai.transforms.{array}", **kept}


def _check_other(references: References, part: _Transform, given: Sequence[str], key: str) -> None:
    """Check that what is of other keys leaves the image alone: it is MONAI's, and names the image nowhere."""
    names_image = any(_mentions(references, part.found, name, key) for name in given if name != "keys")
    if names_image or not part.is_monai:
        raise part.found.refused(
            f"`_target_: {part.target}` may make {key!r} of {', '.join(part.keys)}, and images are prepared one by "
            "one: state cohort.preprocessing"
        )


def _mentions(references: References, found: Found, name: str, key: str) -> bool:
    try:
        told = references.whole(references.inner(found, name))
    except ConfigurationError:  # code, which is not known to leave the image alone if it refers to anything
        told = found.value[name]
        return "@" in f"{told!r}" or key in f"{told!r}"
    return key in f"{told!r}"


def _of_the_key(part: _Transform, name: str, value: Any, key: str) -> Any:
    if name not in _OF_EACH_KEY or not isinstance(value, list):
        return value
    if len(value) != len(part.keys):
        raise part.found.refused(f"`{name}` has {len(value)} values for {len(part.keys)} keys: give one for each")
    return value[part.keys.index(key)]


def _check_loading(references: References, found: Found) -> None:
    """Check that the readers here give what the bundle's would."""
    reader = found.value.get("reader") and references.whole(references.inner(found, "reader"))
    if reader and str(reader).removeprefix("monai.data.").removeprefix("image_reader.") not in _READERS:
        raise found.refused(f"images are read by another reader, {reader!r:.60}: state cohort.preprocessing")
    for name in ("reverse_indexing", "converter", "series_name", "channel_dim", "squeeze_non_spatial_dims"):
        if name in found.value:
            raise found.refused(f"`{name}` changes how images are read: state cohort.preprocessing")


def _check_type(references: References, part: _Transform, key: str) -> None:
    """Check that an image is not rounded to other numbers than those of preprocessing here."""
    told = references.whole(references.inner(part.found, "dtype")) if "dtype" in part.found.value else None
    dtype = _of_the_key(part, "dtype", told, key) if part.keys else told
    if dtype and str(dtype).rpartition(".")[2] != "float32":
        raise part.found.refused(f"images are made {dtype!r:.60}, and here float32: state cohort.preprocessing")
