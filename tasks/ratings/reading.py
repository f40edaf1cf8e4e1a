"""The ratings of an output: those that count, and those that are kept apart."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.cohort.entry import Entry
from tasks.plan.plan import Plan
from tasks.ratings.inbox import OF_ANOTHER_STORE, Refused, fault_in, parsed
from tasks.ratings.rating import FOLDER, Rating, folders_of
from tasks.storage.location import Location
from tasks.store.commit import Commit

Kind = Literal["damaged", "of an unknown image", "of another store", "unnamed", "replaced"]


class Apart(BaseModel):
    """A rating that does not count: where it lies below the output, and why.

    Attributes
    ----------
    kind
        ``damaged``: no rating, or one in the place of another; ``of an unknown image``: the output has no such image,
        or not any more; ``of another store``: the image or its maps are not what was shown; ``unnamed``: without a
        rater; ``replaced``: the same rater has rated the same image and target again, later.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    kind: Kind
    why: str


def read_ratings(output: Location, plan: Plan, entries: Sequence[Entry]) -> tuple[list[Rating], list[Apart]]:
    """Read all ratings: those that count, by image, and what is kept apart."""
    found = _of_images(output, _files(output), entries)
    rows = {entry.id: row for row, entry in enumerate(entries)}
    return _told_apart(found, rows, plan, Commit.read(output, range(len(plan.shards))))


def ratings_of(output: Location, plan: Plan, entries: Mapping[int, Entry]) -> dict[str, list[Rating]]:
    """Read the ratings of some images that count, by image.

    Parameters
    ----------
    entries
        The images by their rows in the store.
    """
    own = folders_of(entry.id for entry in entries.values())
    files = {file: size for file, size in _files(output).items() if file.rpartition("/")[0] in own}
    if not files:
        return {}
    shards = {row // plan.images_per_shard for row in entries}
    rows = {entry.id: row for row, entry in entries.items()}
    ratings, _ = _told_apart(_of_images(output, files, [*entries.values()]), rows, plan, Commit.read(output, shards))
    found: dict[str, list[Rating]] = {}
    for rating in ratings:
        found.setdefault(rating.image_id, []).append(rating)
    return found


def _told_apart(
    files: Iterable[tuple[str, "Rating | Apart"]], rows: Mapping[str, int], plan: Plan, commits: Mapping[int, Commit]
) -> tuple[list[Rating], list[Apart]]:
    """Tell those that count from the others, by the rows of the images and the commits of their shards."""
    counted: dict[str, Rating] = {}
    apart: list[Apart] = []
    for file, rating in files:
        if isinstance(rating, Apart):
            apart.append(rating)
        elif not _was_seen(rating, rows[rating.image_id], plan, commits):
            apart.append(Apart(file=file, kind="of another store", why=OF_ANOTHER_STORE))
        elif fault := fault_in(rating, plan):
            apart.append(Apart(file=file, kind="of another store", why=fault))
        elif not rating.rater.strip():
            apart.append(Apart(file=file, kind="unnamed", why="it does not name its rater"))
        else:
            counted[file] = rating
    last = {_place(rating): file for file, rating in sorted(counted.items(), key=lambda one: (one[1].time, one[0]))}
    for file, rating in counted.items():
        if last[_place(rating)] != file:
            apart.append(Apart(file=file, kind="replaced", why=f"by {last[_place(rating)]}, which is later"))
    return [rating for file, rating in counted.items() if last[_place(rating)] == file], apart


def damaged_ratings(output: Location, entries: Sequence[Entry]) -> list[Apart]:
    """Find the files that are no ratings of images of the output."""
    return [one for _, one in _of_images(output, _files(output), entries) if isinstance(one, Apart)]


def erase_unknown(output: Location, entries: Sequence[Entry]) -> None:
    """Delete the folders of images that the output does not hold, or not any more, whatever lies in them."""
    known = folders_of(entry.id for entry in entries if not entry.withdrawn)
    there = {f"{FOLDER}/{name.partition('/')[0]}" for name in (output / FOLDER).sizes() if "/" in name}
    for folder in there - known:
        (output / folder).remove()


def _files(output: Location) -> dict[str, int]:
    """List what may be ratings, by path below the output, with sizes in bytes."""
    sizes = (output / FOLDER).sizes()
    return {f"{FOLDER}/{name}": size for name, size in sizes.items() if "/" in name and name.endswith(".json")}


def _of_images(
    output: Location, files: Mapping[str, int], entries: Sequence[Entry]
) -> Iterator[tuple[str, "Rating | Apart"]]:
    """Read files, each with the rating of an image that it holds, or with why it holds none."""
    known = {entry.id for entry in entries if not entry.withdrawn}
    for file, rating in parsed(output, files):
        if isinstance(rating, Refused):
            yield file, Apart(file=file, kind="damaged", why=str(rating))
        elif rating.key != file:
            yield file, Apart(file=file, kind="damaged", why="it lies in the place of another rating")
        elif rating.image_id not in known:
            yield file, Apart(file=file, kind="of an unknown image", why="the output holds no such image")
        else:
            yield file, rating


def _was_seen(rating: Rating, row: int, plan: Plan, commits: Mapping[int, Commit]) -> bool:
    shard = row // plan.images_per_shard
    if shard not in commits or not rating.seen.is_in(commits[shard]):
        return False
    return commits[shard].rows[row - plan.shards[shard].start] == rating.seen.row


def _place(rating: Rating) -> tuple[str, str, str | None]:
    return rating.rater, rating.image_id, rating.target
