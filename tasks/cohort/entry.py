"""An image of the cohort as it is written down: what it is made of, and what is known of it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

from tasks.cohort.reading import Counts


class Fact(NamedTuple):
    """The facts of a file, which is not read again as long as it has the same stamp: size, and time or ETag.

    Attributes
    ----------
    file, series
        Pseudonyms of its URI, and of the series that it is a slice of if it says so.
    modality
        As DICOM names it, such as "CT"; empty where it is none that DICOM defines.
    size, decoded
        Bytes of the file, and of its pixels as float32; 0 of a slide, which is decoded tile by tile.
    patient, issuer
        Pseudonyms of DICOM's PatientID and IssuerOfPatientID, keyed in every cohort; empty if the file has none.
    frames
        How many pictures it holds, if the format tells them apart.
    orientation
        Direction cosines of the rows and columns of a series' slice; empty if it does not say.
    pictures, volumes
        How many of its pictures, and of its volumes, can be images of their own.
    """

    file: str
    stamp: str
    digest: str
    format: str
    series: str
    modality: str
    size: int
    decoded: int
    patient: str = ""
    issuer: str = ""
    frames: int = 1
    orientation: tuple[float, ...] = ()
    pictures: int = 1
    volumes: int = 1

    def count(self, spatial_dims: int) -> int:
        """Count its frames for a network of `spatial_dims`: its pictures, or its volumes."""
        return Counts(self.pictures, self.volumes).of(spatial_dims)

    @property
    def person(self) -> str | None:
        """Pseudonym of whose image it is: equal PatientIDs of two issuers are two people."""
        if not self.patient or not self.issuer:
            return self.patient or None
        return hashlib.sha256(f"{self.patient} {self.issuer}".encode()).hexdigest()[: len(self.patient)]


class Source(NamedTuple):
    """One of the things that an image is made of.

    Attributes
    ----------
    name
        Name of the sequence or view; empty where an image has one source.
    kind
        `image`: one file, or the files of a series, whose pixels are explained; `record`: a row of a table; `mask`:
        the reference region, which is not shown to the network.
    digest
        SHA-256 of the file, or over the digests of the files in their order.
    files
        The facts of its files; none for a record.
    """

    name: str
    kind: Literal["image", "record", "mask"]
    digest: str
    files: tuple[Fact, ...]

    @property
    def decoded(self) -> int:
        """Bytes of its pixels as float32; a copy of a slice counts once."""
        return sum({fact.digest: fact.decoded for fact in self.files}.values())


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the cohort. Where it lies is not said: see `tasks.cohort.sources`.

    Attributes
    ----------
    id
        Stable name of the image, unique in the cohort.
    digest
        SHA-256 over what the network sees of the image: that of its source; over those of several, in their order; over
        that and its number if it is a frame.
    mask
        SHA-256 of its mask's bytes.
    reason
        Why it is quarantined or failed; None if it is neither.
    subject
        Whose image it is, by the cohort table, by DICOM's PatientID, or by BIDS; None: the image stands for itself.
    present
        Whether its sources were there at the last run.
    withdrawn
        Whether its subject was withdrawn: nothing of it is left but the row.
    frame
        The frame of its file that it is, counted from 1; None: it is the whole file.
    measures
        Its value of each measure, in the order of `cohort.measures`; None: it has none.
    sources
        What the image is made of.
    covariates
        The words in the columns of `cohort.covariates`, in their order; empty where a cell is.
    """

    id: str
    digest: str | None = None
    format: str | None = None
    label: str | None = None
    mask: str | None = None
    reason: str | None = None
    subject: str | None = None
    present: bool = True
    withdrawn: bool = False
    frame: int | None = None
    measures: tuple[float | None, ...] = ()
    sources: tuple[Source, ...] = ()
    covariates: tuple[str, ...] = ()

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of all files, those of the mask last."""
        return tuple(fact for source in self.sources for fact in source.files)

    @property
    def names(self) -> frozenset[str]:
        """All that the image goes by: its id, its file's, its subject, and the PatientIDs in its files."""
        named = (self.id, self.listed, self.subject, *(fact.patient for fact in self.facts))
        return frozenset(name for name in named if name)

    @property
    def listed(self) -> str:
        """The id under which the cohort lists it, which is that of its file if it is a frame."""
        return self.id if self.frame is None else self.id.rpartition("#")[0]

    def quarantined(self, reason: str) -> "Entry":
        return replace(self, reason=reason)


FIELDS = tuple(field.name for field in fields(Entry))


def decoded_together(sources: Iterable[Source]) -> int:
    """Count the bytes of an image's pixels as float32, where its files may come to lie on the grid of the first."""
    sizes = [source.decoded for source in sources if source.kind == "image"]
    return max(sum(sizes), len(sizes) * sizes[0]) if sizes else 0


def combine(digests: Sequence[str], frame: int | None = None) -> str:
    """Make the digest of an image from those of its files.

    Parameters
    ----------
    digests
        The SHA-256 of each file, or those of its sequences, in their order; that of its record is the last.
    frame
        The frame of the only file that the image is; None: it is all of it.

    Returns
    -------
    str
        The digest of the only file, or one over all, and over the frame's number.
    """
    if frame is not None:
        return hashlib.sha256(f"{digests[0]} frame {frame}".encode()).hexdigest()
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
