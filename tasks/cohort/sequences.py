"""Sequences: the files that make one image together, found and put in order by what their names tell."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from posixpath import basename, join, split

from models.errors import ConfigurationError
from tasks.cohort.reading import Unreadable, enumerated
from tasks.cohort.sources import Files, Listed, Source

logger = logging.getLogger(__name__)

_EXTENSION = re.compile(r"(\.[A-Za-z0-9]+)?(\.gz)?/?$")


def in_order(files: Sequence[str | None], sequences: Sequence[str]) -> dict[str, str]:
    """Find which file is of which sequence: as all their names tell, or else by the places that they are given in.

    Parameters
    ----------
    files
        Names of an image's files; None: a place is left empty.
    sequences
        Names of the sequences, in the order of the network's channels.

    Returns
    -------
    dict
        Files by sequence, in the order of `sequences`; those that are missing are left out.

    Raises
    ------
    Unreadable
        If names do not tell, and there are more or fewer places than sequences, or a name tells of another sequence.
    """
    found = _by_names([file for file in files if file], sequences)
    if found is not None:
        return found
    if len(files) != len(sequences):
        raise Unreadable(
            f"it has {len(files)} file{'s' * (len(files) != 1)}, cohort.sequences has {len(sequences)} "
            f"({', '.join(sequences)}), and names do not tell which is which: name each"
        )
    return as_given(files, sequences)


def as_given(files: Sequence[str | None], sequences: Sequence[str]) -> dict[str, str]:
    """Take files for the sequences at whose places they are given; `in_order` says what is taken and returned.

    Raises
    ------
    Unreadable
        If the name of a file tells of another sequence.
    """
    found = {sequence: file for sequence, file in zip(sequences, files, strict=True) if file}
    for sequence, file in found.items():
        told = _within(file, tuple(sequences))
        if told and sequence not in told:
            raise Unreadable(
                f"the file that is given for {sequence} is named as {' and '.join(sorted(told))}: mend the table, or "
                "name the sequences in cohort.sequences as its columns or files do"
            )
    return found


def lacking(found: Mapping[str, object], sequences: Sequence[str]) -> str | None:
    """Give the reason why an image is none if files of it are missing; None if it has all."""
    missing = [sequence for sequence in sequences if sequence not in found]
    if not missing:
        return None
    of = f"{enumerated(missing, 'and')} of its sequences {enumerated(sequences, 'and')}"
    return f"it lacks {of}: add the file, or leave the image out"


def grouped(listed: Sequence[Listed], sequences: Sequence[str]) -> list[Listed]:
    """Make one image of the files of a folder whose names are equal but for the sequence that they end in.

    Files that end in none of `sequences` are left out. A folder that cannot be listed stays an image of its own, which
    is set aside with the reason.

    Parameters
    ----------
    listed
        Images of one file each.
    sequences
        Names of the sequences, in the order of the network's channels.

    Raises
    ------
    ConfigurationError
        If no file ends in a sequence.
    """
    groups: dict[str, dict[str, list[Listed]]] = {}
    unlisted = [image for image in listed if image.source.uris[0].endswith("/")]
    for image in listed:
        stem, told = _apart(image.name, tuple(sequences))
        if told is not None and not image.source.uris[0].endswith("/"):
            groups.setdefault(stem, {}).setdefault(told, []).append(image)
    if not groups:
        raise ConfigurationError(
            f"cohort.sequences: none of {len(listed)} files has a name that ends in {enumerated(sequences, 'or')}, "
            "as case_t1.nii.gz does in t1: name the sequences as the files do, or the files in a cohort table"
        )
    taken = len(unlisted) + sum(len(files) for group in groups.values() for files in group.values())
    if taken < len(listed):
        logger.warning(
            "cohort.sequences: %d files are left out, whose names end in none of the sequences", len(listed) - taken
        )
    return [*unlisted, *(_image(stem, group, sequences) for stem, group in groups.items())]


def _image(stem: str, group: Mapping[str, Sequence[Listed]], sequences: Sequence[str]) -> Listed:
    files = [
        Files(sequence, tuple(image.source.uris[0] for image in group[sequence]))
        for sequence in sequences
        if sequence in group
    ]
    first = next(iter(group.values()))[0]
    return Listed(stem or ".", Source.of(files), path=first.path, refused=lacking(group, sequences))


def _apart(path: str, sequences: tuple[str, ...]) -> tuple[str, str | None]:
    """Take the sequence at the end of a file's name off its path; None if there is none."""
    folder, name = split(path)
    ending = _ending(sequences).search(_EXTENSION.sub("", name))
    if ending is None:
        return path, None
    return join(folder, name[: ending.start()]).rstrip("/"), _canonical(ending[1], sequences)


def _by_names(files: Sequence[str], sequences: Sequence[str]) -> dict[str, str] | None:
    """Find the sequence of each file by its name, if all names tell, and each of another; by ends rather than parts."""
    ways: tuple[Callable[[str, tuple[str, ...]], frozenset[str]], ...] = (_at_end, _within)
    for tell in ways:
        told = [tell(file, tuple(sequences)) for file in files]
        found = {sequence: file for file, names in zip(files, told, strict=True) for sequence in names}
        if all(len(names) == 1 for names in told) and len(found) == len(files):
            return {sequence: found[sequence] for sequence in sequences if sequence in found}
    return None


def _at_end(file: str, sequences: tuple[str, ...]) -> frozenset[str]:
    _, told = _apart(file.rstrip("/"), sequences)
    return frozenset() if told is None else frozenset({told})


def _within(file: str, sequences: tuple[str, ...]) -> frozenset[str]:
    """Find the sequences that a file's name holds between signs that are neither letters nor digits."""
    found = _parts(sequences).findall(basename(file.rstrip("/")))
    return frozenset(_canonical(name, sequences) for name in found)


@cache
def _ending(sequences: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[_-])({_any_of(sequences)})$", re.IGNORECASE)


@cache
def _parts(sequences: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])({_any_of(sequences)})(?![^\W_])", re.IGNORECASE)


def _any_of(sequences: Sequence[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(sequences, key=len, reverse=True))


def _canonical(name: str, sequences: Sequence[str]) -> str:
    return next(sequence for sequence in sequences if re.fullmatch(re.escape(sequence), name, re.IGNORECASE))
