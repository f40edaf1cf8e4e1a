"""A MONAI bundle in a configuration: its fields are filled in from what the bundle tells, and it is not named again."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from flows.yaml import read_yaml
from models.bundles import archive
from models.bundles.bundle import Bundle
from models.errors import ConfigurationError
from tasks.storage.location import Location

_METADATA = "configs/metadata.json"
_INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")


def expanded(content: dict[str, Any]) -> dict[str, Any]:
    """Replace `model.bundle` by the fields that it stands for; those that are stated stay as they are.

    Raises
    ------
    ConfigurationError
        If there is no such bundle, or it holds what cannot be read without running it.
    """
    model, cohort = content.get("model"), content.get("cohort", {})
    if not isinstance(model, Mapping) or not isinstance(cohort, Mapping) or "bundle" not in model:
        return content
    files = _Files(model["bundle"])
    bundle = Bundle(_read(files, _METADATA), _read(files, *_INFERENCE))
    told = {
        "network": bundle.network,
        "classes": bundle.classes,
        "channels": bundle.channels,
        "input_shape": bundle.input_shape,
        "activation": bundle.activation,
    }
    own = {name: value for name, value in model.items() if name != "bundle"}
    if "weights" not in own:
        name, own["weights"] = files.weights()
        if name.endswith(".ts"):
            del told["network"]
    filled = {**_told(told, own), **own}
    stated = own.get("windows", {})
    if isinstance(stated, Mapping) and "input_shape" not in own and (windows := bundle.windows(stated)):
        filled["windows"] = windows
    if missing := [name for name in ("classes", "input_shape") if name not in filled]:
        raise ConfigurationError(f"model.bundle: the bundle does not tell {missing[0]}: state model.{missing[0]}")
    prepared = {**_told({"preprocessing": bundle.preprocessing}, cohort), "axes": "monai", **cohort}
    if "preprocessing" not in prepared:
        raise ConfigurationError(
            "model.bundle: the bundle does not tell how images are prepared: state cohort.preprocessing, or [] if not "
            "at all"
        )
    return content | {"model": filled, "cohort": prepared}


def _told(fields: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: read() for name, read in fields.items() if name not in stated}
    return {name: value for name, value in found.items() if value is not None}


def _read(files: "_Files", *names: str) -> Mapping[str, Any]:
    found = files.first(*names)
    if found is None:
        raise ConfigurationError(
            f"model.bundle: {files.location} has no {' or '.join(names)}: name a MONAI bundle, or state "
            "its fields (network, weights, classes and the others of model, and cohort.preprocessing)"
        )
    content = read_yaml(found[1], f"model.bundle: {found[0]}")
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"model.bundle: {found[0]} holds no fields")
    return content


class _Files:
    """The files of a bundle: those below a folder or prefix, or the members of a zip."""

    def __init__(self, named: Any) -> None:
        try:
            self.location = Location.model_validate(named)
        except ValidationError as error:
            raise ConfigurationError("model.bundle: name a folder or a .zip, by its path or s3:// URL") from error
        self._archive = self._read_archive() if self.location.url.endswith(".zip") else None

    def _read_archive(self) -> bytes:
        try:
            data = self.location.read()
        except (FileNotFoundError, IsADirectoryError):
            raise ConfigurationError(f"model.bundle: there is no file {self.location}") from None
        if not archive.is_bundle(data):
            raise ConfigurationError(f"model.bundle: {self.location} is no zip of one bundle with {_METADATA}")
        return data

    def first(self, *names: str) -> tuple[str, bytes] | None:
        """Read the first of several files that is there."""
        if self._archive is not None:
            return archive.member(self._archive, *names)
        for name in names:
            try:
                return name, (self.location / name).read()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
        return None

    def weights(self) -> tuple[str, dict[str, Any]]:
        """Find the file of weights: its name in the bundle, and the location that workers read."""
        if self._archive is not None:
            found = archive.member(self._archive, *archive.WEIGHTS)
            if found:
                return found[0], self.location.model_dump()
        else:
            for name in archive.WEIGHTS:
                if (self.location / name).exists():
                    return name, (self.location / name).model_dump()
        raise ConfigurationError(
            f"model.bundle: {self.location} has none of {', '.join(archive.WEIGHTS)}: state model.weights"
        )
