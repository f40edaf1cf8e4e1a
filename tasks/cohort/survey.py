"""Survey a cohort: find out which images there are, what is known of them, and which are no images at all."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from models.errors import ConfigurationError
from tasks.cohort.config import CohortConfig
from tasks.cohort.entries import entries_of
from tasks.cohort.entry import Entry, Fact
from tasks.cohort.listing import list_images
from tasks.cohort.pseudonyms import Key
from tasks.cohort.readers import Header, inspect
from tasks.cohort.reading import Unreadable, check_file
from tasks.cohort.selection import ALL, Selection
from tasks.cohort.series import join, narrow
from tasks.cohort.slides import opening as slides
from tasks.cohort.sources import Listed, Sources, check_is_file
from tasks.cohort.table import is_table
from tasks.storage.location import Location, nameless

logger = logging.getLogger(__name__)

_READERS = 8


@dataclass(frozen=True)
class Survey:
    """A survey holds what is written down of a cohort, and where it lies, which is not.

    Attributes
    ----------
    entries
        The images that are selected.
    sources
        Where the files of all images lie, by id.
    unselected
        Ids of the images that are there, but not selected.
    """

    entries: list[Entry]
    sources: Sources
    unselected: frozenset[str] = frozenset()


def survey(
    config: CohortConfig,
    spatial_dims: int,
    key: Key,
    progress: Callable[[int, int], None] = lambda done, of: None,
    known: Mapping[str, Fact] | None = None,
    only: Selection = ALL,
) -> Survey:
    """List the cohort, digest every source and quarantine what is no image; the pixels are not decoded.

    Parameters
    ----------
    config
        Where the cohort lies, and how large its images may be.
    spatial_dims
        How many spatial dimensions the model takes; for 3, the files of one series in a folder become one image.
    key
        The key of the pseudonyms.
    progress
        It is called with the number of files read and of all files.
    known
        Facts from an earlier run, by the pseudonyms of files: a file is not read again if its stamp is the same.
    only
        Which images are asked for.

    Raises
    ------
    ConfigurationError
        If there is nothing to explain, or a cohort table is not usable.
    """
    listed = list_images(config)
    if not listed:
        raise ConfigurationError(
            f"cohort.source: there are no files at {config.source}: put some there, or name another place"
        )
    if config.slides and any(image.source.mask for image in listed):
        raise ConfigurationError("cohort.source: the table names masks, which slides cannot have: leave them out")
    alias = config.alias(key)
    files = _files(listed)
    selects = only.by_listing(config.home, listed, alias)
    joins = not is_table(config.source) and not config.sequences and spatial_dims == 3
    if not joins:  # of a series, all files have to be known
        files = _files(image for image in listed if selects(image))
    stamps = _stamps(config, files)

    @cache
    def find(uri: str) -> Fact | Unreadable:
        stamp, file = stamps.get(uri, ""), key.pseudonym(uri)
        before = (known or {}).get(file)
        return before if stamp and before and before.stamp == stamp else _fact(config, key, uri, file, stamp)

    if only.first and not (joins or only.ids or only.modality):
        candidates = [image for image in listed if selects(image)]
        sample = only.by_sample(
            candidates, lambda image: all(isinstance(find(uri), Fact) for uri in image.source.files)
        )
        names = {image.name for image in sample}
        files, selects = _files(sample), lambda image: image.name in names
    facts: dict[str, Fact | Unreadable] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for uri, fact in zip(files, pool.map(find, files), strict=True):
            facts[uri] = fact
            progress(len(facts), len(files))
    if joins:
        listed = join(listed, facts)
    else:
        listed = [narrow(image, facts) if selects(image) else image for image in listed]
        if left_out := len(files) - len(_files(image for image in listed if selects(image))):
            logger.warning(
                "%d files in folders that the cohort table names are left out: they are no images, copies, or pictures "
                "beside the volume"
                if is_table(config.source)
                else "%d files that are named as one of the sequences are left out: they are no images",
                left_out,
            )
    surveyed = [
        entry for image in listed if selects(image) for entry in entries_of(image, facts, alias, config, spatial_dims)
    ]
    entries = only.sampled([entry for entry in surveyed if only.by_header(entry)])
    places = {alias(image.name): image.source for image in listed}
    ids = {entry.id for entry in surveyed} | {alias(image.name) for image in listed if not selects(image)}
    if len(places) < len(listed):
        raise ConfigurationError(
            f"cohort.source: files at {config.source} have the same name once it is written as text: rename those "
            "whose names are not UTF-8"
        )
    if len({entry.id for entry in surveyed}) < len(surveyed):
        raise ConfigurationError(
            f"cohort.source: an image at {config.source} has the name of another one's frame, such as name#1: rename it"
        )
    return Survey(entries, Sources(places), frozenset(ids - {entry.id for entry in entries}))


def which(
    config: CohortConfig, key: Key, ids: Collection[str], entries: Iterable[Entry] = ()
) -> dict[str, tuple[str, ...]]:
    """Find the files of images or subjects; none is read.

    Parameters
    ----------
    config
        Where the cohort lies.
    key
        The key of the pseudonyms.
    ids
        The pseudonyms of the images or subjects.
    entries
        The images as an output has them, which tell the patients and the series of files.

    Returns
    -------
    dict
        URIs by pseudonym.
    """
    alias = config.alias(key)
    names: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        for fact in entry.facts:
            names[fact.file] |= entry.names
    found: dict[str, dict[str, None]] = {}
    for image in list_images(config):
        listed = {alias(name) for name in image.called}
        for uri in image.source.uris:
            for id in (listed | names.get(key.pseudonym(uri), set())) & set(ids):
                found.setdefault(id, {})[uri] = None
    return {id: tuple(uris) for id, uris in found.items()}


def _files(images: Iterable[Listed]) -> list[str]:
    return list(dict.fromkeys(uri for image in images for uri in image.source.files))


def _stamps(config: CohortConfig, files: Sequence[str]) -> dict[str, str]:
    try:
        return config.home.stamps_of(files)
    except OSError as error:
        raise nameless(error, f"cohort.source: {config.source} cannot be listed") from None


def _fact(config: CohortConfig, key: Key, uri: str, file: str, stamp: str) -> Fact | Unreadable:
    location = config.home.at(uri)
    try:
        if not stamp:
            check_is_file(location, config.home)
        header, digest, size = _examined(location, stamp, config)
    except Unreadable as reason:
        return reason
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        return Unreadable(f"the file cannot be opened ({type(error).__name__}): check the table and the access rights")
    except OSError as error:
        raise nameless(error, "a file of the cohort cannot be read") from None
    series, patient, issuer = (
        key.pseudonym(name) if name else "" for name in (header.series, header.patient, header.issuer)
    )
    return Fact(
        file=file,
        stamp=stamp,
        digest=digest,
        format=header.format,
        series=series,
        modality=header.modality,
        size=size,
        decoded=header.decoded,
        patient=patient,
        issuer=issuer if patient else "",
        frames=header.frames,
        orientation=header.orientation,
        pictures=header.counts.pictures,
        volumes=header.counts.volumes,
    )


def _examined(location: Location, stamp: str, config: CohortConfig) -> tuple[Header, str, int]:
    """Read a file's header, its SHA-256 and its size; a slide, which is too large to be held, by ranges."""
    if config.slides:
        with location.open() as file:
            header = slides.inspect(file)
            return header, file.digest(), file.raw.size
    check_file(int(stamp.partition("-")[0]) if stamp else location.size(), config.largest_image)
    data = location.read()
    return inspect(data), hashlib.sha256(data).hexdigest(), len(data)
