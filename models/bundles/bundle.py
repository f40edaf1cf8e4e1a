"""A MONAI bundle: the network, its input and output, and the preprocessing that its configuration tells."""

from collections.abc import Mapping
from typing import Any

from models.bundles.components import component, is_disabled
from models.bundles.references import Found, References
from models.bundles.transforms import array_transforms
from models.errors import ConfigurationError

_INFERERS = ("SimpleInferer", "SlidingWindowInferer", "SlidingWindowInfererAdapt")
_WINDOWS = {"overlap": "overlap", "mode": "weights", "sigma_scale": "sigma_scale"}
_PADDING: dict[str, Any] = {"padding_mode": "constant", "cval": 0, "with_coord": False}
_SETTINGS = ("_target_", "_desc_", "_mode_", "_disabled_", "_requires_")


class Bundle:
    """The metadata and the configuration for inference of a bundle. Each field is read when it is asked for.

    Parameters
    ----------
    metadata
        Content of ``configs/metadata.json``.
    inference
        Content of ``configs/inference.json`` or ``.yaml``.
    """

    def __init__(self, metadata: Mapping[str, Any], inference: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self._references = References({"_meta_": metadata, **inference})

    def network(self) -> dict[str, Any] | None:
        """Take the class of the network and its arguments; None: the bundle does not name it."""
        found = self._references.get("network_def", "network")
        if found is None:
            return None
        target = component(self._references, found)
        if is_disabled(self._references, found):
            raise found.refused("the network is switched off: name it in model.network")
        # The bundle's own weights fill the network, and pretrained ones would be fetched.
        names = [name for name in found.value if name not in (*_SETTINGS, "pretrained")]
        switched_off = {"pretrained": False} if "pretrained" in found.value else {}
        return {
            "_target_": target if "." in target else f"monai.networks.nets.{target}",
            **{name: self._references.whole(self._references.inner(found, name)) for name in names},
            **switched_off,
        }

    def preprocessing(self) -> list[dict[str, Any]] | None:
        """Translate the transforms of the image; None: the bundle has none."""
        found = self._references.get("preprocessing", "preprocessing_transforms")
        return None if found is None else array_transforms(self._references, found, self._image)

    def classes(self) -> list[str] | None:
        """Take the names of the outputs, in the order of their channels; None: the metadata do not name them."""
        named = self._of("outputs").get("channel_def")
        if not isinstance(named, Mapping) or not named:
            return None
        names = [named.get(str(number)) for number in range(len(named))]
        if not all(isinstance(name, str) for name in names):
            raise ConfigurationError(
                f"model.bundle: channel_def of the metadata's output names the channels {', '.join(named)}, and not "
                f"0 to {len(named) - 1}: state model.classes"
            )
        return [str(name) for name in names]

    def channels(self) -> int | None:
        """Take the number of channels of the image; None: the metadata do not say it."""
        return _whole(self._of("inputs").get("num_channels"))

    def input_shape(self) -> list[int] | None:
        """Take the sides of what the network takes at once, in the order of the bundle's axes; None: they vary."""
        shape, window = self._shape(), self._window()
        if window and len(window) == len(shape):
            window = [side or own for side, own in zip(window, shape, strict=True)]
        known = [side for side in window or shape if side]
        return known if known and len(known) == len(window or shape) else None

    def windows(self, stated: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take how the inferer goes over images that are larger than its window.

        Parameters
        ----------
        stated
            Fields that the configuration states itself, such as `image_shape`, which few bundles tell.

        Returns
        -------
        dict or None
            The fields of `model.windows`; None where images are not larger, or nothing tells how large they are.
        """
        shape, window = stated.get("image_shape", self._shape()), self._window()
        is_larger = len(window) == len(shape) and any(
            side and own and own > side for side, own in zip(window, shape, strict=True)
        )
        if not window or not ("image_shape" in stated or (is_larger and all(shape))):
            return dict(stated) or None
        found = self._references.get("inferer")
        assert found is not None
        named = {name: self._references.inner(found, name) for name in (*_WINDOWS, *_PADDING) if name in found.value}
        for name, usual in _PADDING.items():
            if name in named and named[name].value != usual:
                raise named[name].refused(f"images are padded by {usual!r} alone: leave `{name}` out")
        told = {_WINDOWS[name]: self._references.whole(value) for name, value in named.items() if name in _WINDOWS}
        return {"image_shape": shape, **told, **stated}

    def activation(self) -> str | None:
        """Take the activation that the postprocessing applies; None: it applies none."""
        found = self._references.get("postprocessing")
        for part in self._parts(found) if found else ():
            if not isinstance(part.value, Mapping) or "_target_" not in part.value:
                continue
            if str(part.value["_target_"]).rpartition(".")[2] not in ("Activations", "Activationsd", "ActivationsD"):
                continue
            if is_disabled(self._references, part):
                continue
            told = [name for name in ("softmax", "sigmoid", "other") if part.value.get(name)]
            told = [name for name in told if self._references.whole(self._references.inner(part, name))]
            if len(told) != 1 or told == ["other"]:
                raise part.refused(f"the activation is {' and '.join(told) or 'none'}: state model.activation")
            return told[0]
        return None

    def _parts(self, found: Found) -> list[Found]:
        if isinstance(found.value, Mapping) and found.value.get("transforms") is not None:
            found = self._references.inner(found, "transforms")
        if not isinstance(found.value, list):
            return [found]
        return [self._references.inner(found, number) for number in range(len(found.value))]

    def _window(self) -> list[int | None]:
        found = self._references.get("inferer")
        if found is None:
            return []
        target = component(self._references, found)
        name = target.rpartition(".")[2]
        if name not in _INFERERS or target not in (name, f"monai.inferers.{name}", f"monai.inferers.inferer.{name}"):
            raise found.refused(
                f"`_target_: {target}` asks the network in a way that is not known here: state model.input_shape if "
                "the network takes an image as a whole"
            )
        if name == "SimpleInferer" or "roi_size" not in found.value:
            return []
        sides = self._references.whole(self._references.inner(found, "roi_size"))
        return [_whole(side) for side in sides] if isinstance(sides, list) else []

    @property
    def _image(self) -> str:
        """The key of the image among those of the configuration's dictionaries."""
        form = self._metadata.get("network_data_format")
        named = form.get("inputs") if isinstance(form, Mapping) else None
        return str(next(iter(named))) if isinstance(named, Mapping) and len(named) == 1 else "image"

    def _shape(self) -> list[int | None]:
        sides = self._of("inputs").get("spatial_shape")
        return [_whole(side) for side in sides] if isinstance(sides, list) else []

    def _of(self, side: str) -> Mapping[str, Any]:
        """The metadata of the only input or output."""
        form = self._metadata.get("network_data_format")
        named = form.get(side) if isinstance(form, Mapping) else None
        if not isinstance(named, Mapping) or not named:
            return {}
        if len(named) > 1 and side == "inputs":
            raise ConfigurationError(
                f"model.bundle: the network takes {', '.join(map(str, named))}, and one image is explained: name "
                "a network of one input"
            )
        only = next(iter(named.values()))
        return only if isinstance(only, Mapping) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
