"""Series: which files of a folder make one image together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from posixpath import dirname

from tasks.cohort.entry import Fact
from tasks.cohort.reading import NoImage, Unreadable
from tasks.cohort.sources import Listed

_PARALLEL = 1e-3
"""Direction cosines of slices that differ by less are the same."""


def join(listed: Sequence[Listed], facts: Mapping[str, Fact | Unreadable]) -> list[Listed]:
    """Make one image of the slices of each volume in a folder; all other files stay images of their own.

    Parameters
    ----------
    listed
        Images of one file each.
    facts
        The facts of all files, or why there are none, by URI.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for image in listed:
        (uri,) = image.source.uris
        folders[dirname(uri)].append(uri)
    volumes = {volume[0]: volume for uris in folders.values() for volume in _volumes(uris, facts)}
    return [
        image._replace(source=image.source._replace(uris=volumes[uri]))
        for image in listed
        if (uri := image.source.uris[0]) in volumes
    ]


def narrow(image: Listed, facts: Mapping[str, Fact | Unreadable]) -> Listed:
    """Narrow an image whose files are those of a folder to its one volume, or each of its sequences.

    What is no image is left out, and so are copies of files, and pictures beside the volume, such as localizers.

    Parameters
    ----------
    image
        An image as a cohort table names it.
    facts
        The facts of all files, or why there are none, by URI.

    Returns
    -------
    Listed
        The image with the files of its volume; or refused, if the folder holds none, or several.
    """
    source = image.source
    narrowed = []
    for files in source.parts:
        try:
            uris = files.uris if len(files.uris) == 1 else _only_volume(files.uris, facts)
        except Unreadable as reason:
            return image._replace(refused=image.refused or files.says(reason))
        narrowed.append(files._replace(uris=uris))
    uris = tuple(uri for files in narrowed for uri in files.uris)
    sequences = tuple(narrowed) if source.sequences else ()
    return image._replace(source=source._replace(uris=uris, sequences=sequences))


def _volumes(uris: Sequence[str], facts: Mapping[str, Fact | Unreadable]) -> list[tuple[str, ...]]:
    """Group files: the slices of one series that have one size and one orientation, and each other file by itself."""
    groups: list[list[str]] = []
    of_series: dict[str, list[list[str]]] = defaultdict(list)
    for uri in uris:
        fact = facts[uri]
        if isinstance(fact, Unreadable) or not fact.series:
            groups.append([uri])
            continue
        for group in of_series[fact.series]:
            if _fit(fact, facts[group[0]]):
                group.append(uri)
                break
        else:
            groups.append([uri])
            of_series[fact.series].append(groups[-1])
    return [tuple(group) for group in groups]


def _fit(one: Fact, other: Fact | Unreadable) -> bool:
    """Tell whether two slices have the same size and orientation."""
    return (
        isinstance(other, Fact)
        and one.decoded == other.decoded
        and len(one.orientation) == len(other.orientation)
        and all(abs(a - b) <= _PARALLEL for a, b in zip(one.orientation, other.orientation, strict=True))
    )


def _only_volume(uris: Sequence[str], facts: Mapping[str, Fact | Unreadable]) -> tuple[str, ...]:
    found = {uri: fact for uri in uris if not isinstance(fact := facts[uri], NoImage)}
    if not found:
        raise Unreadable(f"none of the {len(uris)} files of the folder is an image")
    damaged = [fact for fact in found.values() if isinstance(fact, Unreadable)]
    if damaged:
        raise Unreadable(f"{len(damaged)} of the {len(uris)} files of the folder cannot be read: {damaged[0]}")
    images = {uri: fact for uri, fact in found.items() if isinstance(fact, Fact)}
    joined = {uri: fact for uri, fact in images.items() if fact.format == "dicom"} or images
    first_copies = {fact.digest: uri for uri, fact in reversed(joined.items())}
    groups = _volumes([uri for uri, fact in joined.items() if first_copies[fact.digest] == uri], facts)
    volumes = [group for group in groups if len(group) > 1 or joined[group[0]].frames > 1]
    if len(volumes) == 1:  # a single slice that would lie in it is no localizer
        volumes += [group for group in groups if group not in volumes and _fit(joined[volumes[0][0]], joined[group[0]])]
    volumes = volumes or groups
    if len(volumes) > 1:
        raise Unreadable(_several(volumes, joined))
    return volumes[0]


def _several(volumes: Sequence[tuple[str, ...]], facts: Mapping[str, Fact]) -> str:
    firsts = [facts[volume[0]] for volume in volumes]
    if any(fact.format != "dicom" for fact in firsts):
        return f"the folder holds {len(volumes)} images, and only DICOM has series: name the file of one"
    if any(fact.frames > 1 for fact in firsts):
        return f"the folder holds {len(volumes)} images, of which some are multi-frame objects: name the file of one"
    if all(len(volume) == 1 for volume in volumes):
        return f"the folder holds {len(volumes)} pictures and no volume: name the file of one"
    sizes = [str(len(volume)) for volume in volumes]
    of = f"of {', '.join(sizes[:-1])} and {sizes[-1]} files"
    series = len({fact.series for fact in firsts})
    if series < len(firsts):
        return f"the folder holds {len(volumes)} volumes in {series} series, {of}: put each into a folder of its own"
    return f"the folder holds {series} series, {of}: name the folder of one"
