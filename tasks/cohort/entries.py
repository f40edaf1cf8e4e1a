"""Write images down as entries: by what the cohort lists, and by the facts of their files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from models.records import record_digest
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry, Fact, Source, combine, decoded_together
from tasks.cohort.reading import Unreadable, check_decoded, check_frames
from tasks.cohort.sources import Files, Listed


def entries_of(
    image: Listed,
    facts: Mapping[str, Fact | Unreadable],
    alias: Callable[[str], str],
    config: CohortConfig,
    spatial_dims: int,
) -> list[Entry]:
    """Write down an image, or each frame of it; frames of one file are of one subject, which may be the file itself."""
    entry = _entry(image, facts, alias, config, spatial_dims)
    frames = _frames(entry.sources[0].files, config, spatial_dims) if entry.sources else 1
    if frames <= 1 or entry.digest is None:
        return [entry]
    return [
        replace(
            entry,
            id=f"{entry.id}#{number}",
            digest=combine([entry.digest], number),
            subject=entry.subject or entry.id,
            frame=number,
        )
        for number in range(1, frames + 1)
    ]


def _frames(own: Sequence[Fact], config: CohortConfig, spatial_dims: int) -> int:
    """Count the frames of an image's files that are images of their own; 1: the files are one image."""
    return own[0].count(spatial_dims) if config.frames == "images" and len(own) == 1 else 1


def _entry(
    image: Listed,
    facts: Mapping[str, Fact | Unreadable],
    alias: Callable[[str], str],
    config: CohortConfig,
    spatial_dims: int,
) -> Entry:
    named = image.subject or image.bids
    subject = alias(named) if named else None
    entry = Entry(
        id=alias(image.name),
        label=image.label,
        subject=subject,
        measures=image.measures,
        covariates=image.covariates,
    )
    if image.refused:
        return entry.quarantined(image.refused)
    try:
        _check_files_differ(image.source.parts)
        sources = [_source(files, facts) for files in image.source.parts]
    except Unreadable as reason:
        return entry.quarantined(str(reason))
    own = [fact for source in sources for fact in source.files]
    entry = replace(entry, format=own[0].format)
    people = {fact.person for fact in own if fact.person}
    if len(people) > 1:
        return entry.quarantined(
            f"its {len(own)} files are of {len(people)} patients, by PatientID (0010,0020) and IssuerOfPatientID "
            "(0010,0021): name the files of each by themselves"
        )
    if people and image.subject is None:
        entry = replace(entry, subject=people.pop())
    mask = None if image.source.mask is None else facts[image.source.mask]
    if isinstance(mask, Unreadable):
        return entry.quarantined(f"its mask: {mask}")
    frames = max(_frames(own, config, spatial_dims), 1)
    masks = _frames([mask], config, spatial_dims) if mask else 1
    try:
        check_frames(frames)
        check_decoded(decoded_together(sources) // frames, config.largest_image)
        check_decoded(mask.decoded // (masks if masks == frames else 1) if mask else 0, config.largest_image)
        if spatial_dims == 3:  # those of pictures may be the slices of a volume that is laid onto them
            _check_frames_of_mask(masks, frames)
    except Unreadable as reason:
        return entry.quarantined(str(reason))
    if image.source.record:
        sources.append(Source("", "record", record_digest(image.source.record), ()))
    digest = combine([source.digest for source in sources])
    if mask:
        sources.append(Source("", "mask", mask.digest, (mask,)))
    return replace(entry, digest=digest, mask=mask.digest if mask else None, sources=tuple(sources))


def _check_frames_of_mask(masks: int, frames: int) -> None:
    if frames > 1 and masks not in (1, frames):
        raise Unreadable(
            f"its mask has {masks} frames, and the image {frames}: a mask has as many frames as its image, or one for "
            "all of them"
        )


def _check_files_differ(parts: Iterable[Files]) -> None:
    given: dict[tuple[str, ...], str] = {}
    for name, uris in parts:
        if (other := given.setdefault(uris, name)) != name:
            raise Unreadable(f"its {other} and its {name} are one file: name the file of each")


def _source(files: Files, facts: Mapping[str, Fact | Unreadable]) -> Source:
    """Collect what is known of a sequence's files, or of an image's."""
    found: list[Fact] = []
    for fact in map(facts.__getitem__, files.uris):
        if isinstance(fact, Unreadable):
            raise Unreadable(files.says(fact))
        found.append(fact)
    return Source(files.name, "image", combine([fact.digest for fact in found]), tuple(found))
