"""The cohort: which images there are, listed from a folder, a glob, a prefix or a manifest of the user's."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from posixpath import basename, dirname

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from models.components import Component
from tasks.manifest import Entry, Fact
from tasks.readers import detect
from tasks.readers.base import Unreadable
from tasks.readers.dicom import WindowConfig, series_uid
from tasks.storage import Location

_READERS = 8


class CohortConfig(BaseModel):
    """Which images are explained, and how they are prepared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: Location = Field(
        description="A folder, glob or prefix; or a .csv or .parquet manifest: uri, id, label, mask, subject"
    )
    description: str = Field("", description="A sentence for whoever reads the store or the report")
    preprocessing: tuple[Component, ...] = Field(
        (),
        strict=False,
        description="MONAI array transforms in order, e.g. {_target_: monai.transforms.Resize, spatial_size: [96, 96]}",
    )
    window: WindowConfig = Field("none", description="DICOM window: none, file, or {center, width}")
    background: int = Field(
        16, ge=1, description="Images, spread over the cohort, that stand for what is usual where an explainer needs it"
    )
    allowed_failures: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of images that may be quarantined or failed; a run that sees more fail ends early",
    )


def survey(
    config: CohortConfig,
    spatial_dims: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
    known: Mapping[str, Fact] | None = None,
) -> list[Entry]:
    """List the cohort, digest every source and quarantine what is no image; the pixels are not decoded.

    Parameters
    ----------
    spatial_dims
        Of the model: for 3, the DICOM files of one series in a folder become one image.
    progress
        Called with the number of files read and of all files.
    known
        By URI, what is known of files from an earlier run: they are not read again if their stamp is the same.

    Raises
    ------
    ValueError
        If there is nothing to explain, or a manifest of the user's is not usable.
    """
    listed, is_manifest = _list(config.source)
    if not listed:
        raise ValueError(f"cohort.source: there are no files at {config.source}")
    files = list(dict.fromkeys(uri for entry in listed for uri in entry.uris))
    stamps = config.source.stamps_of(files)

    def find(uri: str) -> Fact | Unreadable:
        stamp = stamps.get(uri, "")
        before = (known or {}).get(uri)
        return before if stamp and before and before.stamp == stamp else _facts(config.source.at(uri), stamp)

    facts: dict[str, Fact | Unreadable] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for uri, fact in zip(files, pool.map(find, files), strict=True):
            facts[uri] = fact
            progress(len(facts), len(files))
    if not is_manifest and spatial_dims == 3:
        listed = _join_series(listed, facts)
    return [_entry(listing, facts) for listing in listed]


def _list(source: Location) -> tuple[list[Entry], bool]:
    if source.url.endswith((".csv", ".parquet")):
        return _from_manifest(source), True
    return [
        Entry(id=_id(source.at(url).path.removeprefix(source.folder) or basename(url)), uris=(url,))
        for url in source.files()
    ], False


def _from_manifest(source: Location) -> list[Entry]:
    try:
        data = BytesIO(source.read())
    except FileNotFoundError:
        raise ValueError(f"cohort.source: there is no manifest {source}") from None
    if source.url.endswith(".csv"):
        table = pd.read_csv(data, dtype=str, keep_default_na=False, na_values=[""])  # NA and None are labels too
    else:
        table = pd.read_parquet(data)
    unknown = set(table.columns) - {"id", "uri", "label", "mask", "subject"}
    if "uri" not in table or unknown:
        raise ValueError(
            f"cohort.source: {source} has the columns {list(table.columns)}; "
            "`uri` is needed, `id`, `label`, `mask` and `subject` are allowed"
        )
    folder = dirname(source.url)

    def resolve(uri: str) -> str:
        return uri if uri.startswith(("s3://", "/")) else f"{folder}/{uri}"

    entries = []
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        if row["uri"] is None:
            raise ValueError(f"cohort.source: {source} has a row without `uri`: {row}")
        uri = resolve(str(row["uri"]))
        label, mask, subject = row.get("label"), row.get("mask"), row.get("subject")
        entries.append(
            Entry(
                id=str(row["id"]) if row.get("id") is not None else _id(str(row["uri"])),
                uris=tuple(source.at(uri).files()) or (uri,) if uri.endswith("/") else (uri,),
                label=None if label is None else str(label),
                mask=None if mask is None else resolve(str(mask)),
                subject=None if subject is None else str(subject),
            )
        )
    repeated = [id for id, count in Counter(entry.id for entry in entries).items() if count > 1]
    if repeated:
        raise ValueError(f"cohort.source: {source} names {len(repeated)} ids more than once, such as {repeated[0]!r}")
    return entries


def _facts(location: Location, stamp: str) -> Fact | Unreadable:
    try:
        data = location.read()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        return Unreadable(
            f"the file cannot be opened ({type(error).__name__}): check the manifest and the access rights"
        )
    try:
        format = detect(data)
        uid = series_uid(data) if format == "dicom" else ""
        return Fact(stamp, hashlib.sha256(data).hexdigest(), format, _id(uid) if uid else "")
    except Unreadable as reason:
        return reason


def _join_series(listed: Sequence[Entry], facts: dict[str, Fact | Unreadable]) -> list[Entry]:
    series: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in listed:
        fact = facts[entry.uris[0]]
        uid = "" if isinstance(fact, Unreadable) else fact.series
        series[(dirname(entry.uris[0]), uid) if uid else (entry.uris[0], "")].append(entry)
    return [replace(slices[0], uris=tuple(uri for entry in slices for uri in entry.uris)) for slices in series.values()]


def _entry(listing: Entry, facts: dict[str, Fact | Unreadable]) -> Entry:
    found = []
    for uri in listing.uris:
        fact = facts[uri]
        if isinstance(fact, Unreadable):
            return listing.quarantined(str(fact))
        found.append(fact)
        listing = replace(listing, format=fact.format)
    return replace(listing, digest=combine([fact.digest for fact in found]), facts=tuple(found))


def combine(digests: Sequence[str]) -> str:
    """The digest of an image from its files': that of the only file, or one over all."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _id(relative: str) -> str:
    return hashlib.sha256(relative.strip("/").encode()).hexdigest()[:16]
