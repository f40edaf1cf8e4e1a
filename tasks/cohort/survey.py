"""Survey a cohort: find out which images there are, what is known of them, and which are no images at all."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice

from models.errors import ConfigurationError
from tasks.cohort.config import CohortConfig
from tasks.cohort.entries import entries_of
from tasks.cohort.entry import Entry, Fact
from tasks.cohort.listing import list_images
from tasks.cohort.packed import Packed, PackedMapping
from tasks.cohort.packed_entries import Entries
from tasks.cohort.pseudonyms import Key
from tasks.cohort.readers import Header, inspect
from tasks.cohort.reading import Unreadable, check_file
from tasks.cohort.selection import ALL, Selection
from tasks.cohort.series import join, narrow
from tasks.cohort.slides import opening as slides
from tasks.cohort.sources import Listed, Source, Sources, check_is_file
from tasks.cohort.table import is_table
from tasks.storage.location import Location, nameless

logger = logging.getLogger(__name__)

_READERS = 8

_AT_ONCE = 4096
"""Images whose files are read before these are written down, and forgotten."""

_REMEMBERED = 2**14
"""Files that are not read again if another image has them, too, such as a mask."""


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

    entries: Entries
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
    selects = only.by_listing(config.home, listed, alias)
    joins = not is_table(config.source) and not config.sequences and spatial_dims == 3
    files = _files(image for image in listed if joins or selects(image))  # of a series, all files have to be known
    stamps = _stamps(config, files)

    @lru_cache(_REMEMBERED)  # files of several images
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
    kept: list[Packed[Listed]] = []
    left_out: set[str] = set()

    def written_down(pool: ThreadPoolExecutor) -> Iterator[Entry]:
        """Read files and forget them again, image by image; of series, all files first."""
        done = count(1)
        for block in (listed,) if joins else _blocks(listed):
            own = _files(image for image in block if joins or selects(image))
            facts: dict[str, Fact | Unreadable] = {}
            for uri, fact in zip(own, pool.map(find, own), strict=True):
                facts[uri] = fact
                progress(min(next(done), len(files)), len(files))
            if joins:
                images = join(block, facts)
            else:
                images = [narrow(image, facts) if selects(image) else image for image in block]
                left_out.update({*own}.difference(_files(filter(selects, images))))
            kept.append(Packed(images))
            for image in filter(selects, images):
                yield from entries_of(image, facts, alias, config, spatial_dims)

    with ThreadPoolExecutor(_READERS) as pool:
        surveyed = Entries(written_down(pool))
    _tell_left_out(config, len(left_out))
    places = PackedMapping((alias(image.name), image.source) for image in chain.from_iterable(kept))
    _check_names_differ(config, places, surveyed)
    if only == ALL:
        return Survey(surveyed, Sources(places))
    entries = Entries(only.sampled([entry for entry in surveyed if only.by_header(entry)]))
    others = (alias(image.name) for image in chain.from_iterable(kept) if not selects(image))
    ids = {*surveyed.columns("id"), *others}
    return Survey(entries, Sources(places), frozenset(ids.difference(entries.columns("id"))))


def _tell_left_out(config: CohortConfig, files: int) -> None:
    if files:
        logger.warning(
            "%d files in folders that the cohort table names are left out: they are no images, copies, or pictures "
            "beside the volume"
            if is_table(config.source)
            else "%d files that are named as one of the sequences are left out: they are no images",
            files,
        )


def _check_names_differ(config: CohortConfig, places: PackedMapping[Source], surveyed: Entries) -> None:
    if places.repeats:
        raise ConfigurationError(
            f"cohort.source: files at {config.source} have the same name once it is written as text: rename those "
            "whose names are not UTF-8"
        )
    if any(id in places for id, frame in surveyed.columns("id", "frame") if frame is not None):
        raise ConfigurationError(
            f"cohort.source: an image at {config.source} has the name of another one's frame, such as name#1: rename it"
        )


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


def _blocks(images: Iterable[Listed]) -> Iterator[list[Listed]]:
    left = iter(images)
    return iter(lambda: list(islice(left, _AT_ONCE)), [])


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
