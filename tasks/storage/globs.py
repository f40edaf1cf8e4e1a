"""Files of a filesystem as a cohort lists them: all below a folder, or those that match a glob."""

import os
import re
from collections.abc import Iterator

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

_WILDCARD = re.compile(r"[*?\[]")


def split(filesystem: AbstractFileSystem, path: str) -> tuple[str, str]:
    """Split a glob into the folder and the pattern of what lies below; another name is a folder alone."""
    path = path.rstrip("/")
    wildcard = _WILDCARD.search(path)
    if wildcard is None:
        return path, ""
    folder, _, pattern = path[: wildcard.start()].rpartition("/")
    pattern += path[wildcard.start() :]
    while pattern:
        step, _, below = pattern.partition("/")
        try:
            if not filesystem.exists(f"{folder}/{step}"):
                break
        except PermissionError:  # S3 says so of a name that is not there, where a policy allows but some prefixes
            break
        folder, pattern = f"{folder}/{step}", below
    return folder, pattern


def matching(filesystem: AbstractFileSystem, path: str) -> Iterator[str]:
    """Go through the paths that match a glob; without a pattern, through all below the folder."""
    folder, pattern = split(filesystem, path)
    if not pattern:
        yield from visible(filesystem, path.rstrip("/"))
        return
    steps = pattern.split("/")
    depth = None if "**" in pattern else len(steps)
    for found in visible(filesystem, folder, depth):
        name = _below(found, folder)
        if name.endswith("/"):  # a folder that cannot be listed, where what matches may lie
            above = steps[: name.count("/")]
            matches = depth is None or re.match(glob_translate("/".join(above)), name.rstrip("/"))
        else:
            matches = re.match(glob_translate(pattern), name)
        if matches:
            yield found


def visible(filesystem: AbstractFileSystem, folder: str, depth: int | None = None) -> Iterator[str]:
    """Go through the paths of files below a folder; without the empty objects by which S3's consoles make one."""
    if isinstance(filesystem, LocalFileSystem):
        paths = sorted(_walked(folder or "/", depth))
    else:
        found = filesystem.find(folder or "/", maxdepth=depth, detail=True)
        paths = [path for path in sorted(found) if found[path]["type"] != "directory" and not path.endswith("/")]
    return (path for path in paths if not any(step.startswith(".") for step in _below(path, folder).split("/")))


def _below(path: str, folder: str) -> str:
    return path.removeprefix(folder).lstrip("/")


def _walked(folder: str, depth: int | None) -> Iterator[str]:
    """Go through what is no folder, links to folders included, and through folders that cannot be listed, with a /."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        yield folder
        return
    errors: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=errors.append):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (os.path.join(place, name) for name in (*files, *links))
        if depth is not None and len(place.removeprefix(folder).split("/")) >= depth:
            folders.clear()
    yield from (f"{error.filename}/" for error in errors if not isinstance(error, FileNotFoundError))
