"""Ratings as they come in: checked against the store, and saved beside it."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import suppress

from pydantic import ValidationError

from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.ratings.rating import LARGEST, Rating, folder_of
from tasks.storage.location import Location
from tasks.store.commit import Commit

OF_ANOTHER_STORE = "it is of an image or of maps that the store does not hold, or not any more"


class Refused(Exception):
    """A rating that is not taken, with the reason in words, and the status of HTTP that says so."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


_FILES_AT_ONCE = 256


def take(output: Location, data: bytes) -> Rating:
    """Check a rating, and save it beside the store.

    Raises
    ------
    Refused
        400 if it is no rating; 409 if it is of what the store does not hold, or another of its id is there; 403 where
        it may not be written, 507 on a full disk.
    """
    rating = parse(data)
    plan = Plan.read(output)
    if not _is_held(output, plan, rating):
        raise Refused(409, f"{OF_ANOTHER_STORE}: load the page again")
    if fault := fault_in(rating, plan):
        raise Refused(400, fault)
    try:
        saved = rating.save(output)
    except OSError as error:
        raise _not_saved(error) from error
    if not saved:
        raise Refused(409, "another rating of this id is there already")
    return rating


def _not_saved(error: OSError) -> Exception:
    """Say why a rating could not be saved, if that is known."""
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return Refused(403, "ratings cannot be saved here, where nothing may be written")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(507, "the rating cannot be saved: the disk is full")
    if error.errno == errno.ENAMETOOLONG:
        return Refused(403, "ratings of this image cannot be saved here: its id is too long for the name of a folder")
    return error


def own_ratings(output: Location, image_id: str, rater: str) -> list[Rating]:
    """Read what one rater has said of an image, the latest last; what cannot be read is left out."""
    folder = output / folder_of(image_id)
    there = folder.read_all([(folder / name).url for name in folder.names() if name.endswith(".json")])
    ratings = []
    for data in there:
        with suppress(Refused):
            ratings += [parse(data)] if isinstance(data, bytes) else []
    return sorted((one for one in ratings if one.rater == rater.strip()), key=lambda one: (one.time, one.id))


def parsed(folder: Location, sizes: Mapping[str, int]) -> Iterator[tuple[str, Rating | Refused]]:
    """Read what may be ratings in a folder, a few hundred files at once: each, or why it is none.

    Parameters
    ----------
    sizes
        Bytes of each file, by its path below the folder; a file that is too large for a rating is not read.
    """
    names = sorted(sizes)
    for first in range(0, len(names), _FILES_AT_ONCE):
        some = names[first : first + _FILES_AT_ONCE]
        small = [name for name in some if sizes[name] <= LARGEST]
        read = dict(zip(small, folder.read_all([(folder / name).url for name in small]), strict=True))
        yield from ((name, _parsed(read.get(name))) for name in some)


def _parsed(data: bytes | Exception | None) -> Rating | Refused:
    """Parse what was read; None: it was too large."""
    if isinstance(data, Exception):
        raise data
    try:
        return _too_large() if data is None else parse(data)
    except Refused as refused:
        return refused


def _too_large() -> Refused:
    return Refused(400, f"it is no rating: more than {LARGEST} bytes")


def parse(data: bytes) -> Rating:
    """Read a rating.

    Raises
    ------
    Refused
        400, with the first field that is wrong; nothing of what it holds is in the message.
    """
    if len(data) > LARGEST:
        raise _too_large()
    try:
        return Rating.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(400, f"it is no rating: {where + ': ' if where else ''}{first['msg']}") from error


def fault_in(rating: Rating, plan: Plan) -> str:
    """Say what a rating names that the store does not have; empty if there is no such thing."""
    if rating.region and rating.region.shape != plan.grid:
        return f"its region is drawn on a grid of {rating.region.shape}, and the store's is {plan.grid}"
    if not {*rating.shown} <= {*plan.maps}:
        return "it names explainers that have no map in the store"
    if rating.target is not None and rating.target not in plan.frame.targets:
        return "it names a target that the store does not have"
    return ""


def _is_held(output: Location, plan: Plan, rating: Rating) -> bool:
    """Tell whether the store holds what the rater was shown."""
    shard, row = rating.seen.shard, rating.seen.row
    commit = Commit.read(output, [shard]).get(shard) if shard < len(plan.shards) else None
    if commit is None or not rating.seen.is_in(commit):
        return False
    entries = manifest.read(output, [shard], sources=False)
    return entries[commit.rows.index(row)].id == rating.image_id
