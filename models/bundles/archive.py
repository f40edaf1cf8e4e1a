"""Bundles as one file: a zip of the folder, of which members are read and nothing is unpacked."""

import zipfile
from io import BytesIO

from models.errors import ConfigurationError
from models.forms.archives import entries

WEIGHTS = ("models/model.safetensors", "models/model.pt", "models/model.ts")
"""The places where weights of a bundle may lie; the first that is there is taken."""

_METADATA = "configs/metadata.json"
_MOST_EXPANDED = 20
"""Bytes of a member for each byte of the archive; weights are hardly compressible."""


def is_bundle(data: bytes) -> bool:
    """Tell whether a file is the archive of a bundle, by its content."""
    return _root(entries(data)) is not None


def member(data: bytes, *names: str) -> tuple[str, bytes] | None:
    """Read the first of several members that the archive of a bundle has: its name and its bytes.

    Parameters
    ----------
    names
        Paths below the bundle's folder.

    Raises
    ------
    ConfigurationError
        If the archive is damaged or encrypted, or holds a member far larger than itself.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            root = _root(archive.namelist())
            name = next((name for name in names if f"{root}{name}" in archive.namelist()), None)
            if root is None or name is None:
                return None
            if archive.getinfo(f"{root}{name}").file_size > _MOST_EXPANDED * len(data):
                raise ConfigurationError(f"model.bundle: {name} in the archive is far larger than the archive")
            return name, archive.read(f"{root}{name}")
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise ConfigurationError(
            f"model.bundle: the archive cannot be read ({type(error).__name__}): unpack it and name the folder"
        ) from error


def weights_within(data: bytes) -> bytes:
    """Take the weights out of the archive of a bundle; any other file is itself.

    Raises
    ------
    ConfigurationError
        If the bundle has none.
    """
    if not is_bundle(data):
        return data
    found = member(data, *WEIGHTS)
    if found is None:
        raise ConfigurationError(f"model.weights: the archive of the bundle has none of {', '.join(WEIGHTS)}")
    return found[1]


def _root(names: list[str]) -> str | None:
    """The folder of the bundle in its archive: the archive itself, or a folder directly within it."""
    roots = [name.removesuffix(_METADATA) for name in names if name.endswith(_METADATA) and name.count("/") < 3]
    return roots[0] if len(roots) == 1 and roots[0].count("/") == (1 if roots[0] else 0) else None
