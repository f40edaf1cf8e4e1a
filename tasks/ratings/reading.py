"""The ratings of an output: those that count, and those that are kept apart."""

from collections.abc import Iterator, Mapping, Sequence
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
    rows = {entry.id: row for row, entry in enumerate(entries)}
    commits = Commit.read(output, range(len(plan.shards)))
    counted: dict[str, Rating] = {}
    apart: list[Apart] = []
    for file, rating in _of_images(output, entries):
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
    return [one for _, one in _of_images(output, entries) if isinstance(one, Apart)]


def erase_unknown(output: Location, entries: Sequence[Entry]) -> None:
    """Delete the folders of images that the output does not hold, or not any more, whatever lies in them."""
    known = folders_of(entry.id for entry in entries if not entry.withdrawn)
    there = {f"{FOLDER}/{name.partition('/')[0]}" for name in (output / FOLDER).sizes() if "/" in name}
    for folder in there - known:
        (output / folder).remove()


def _of_images(output: Location, entries: Sequence[Entry]) -> Iterator[tuple[str, "Rating | Apart"]]:
    """Read all files, each with the rating of an image that it holds, or with why it holds none."""
    known = {entry.id for entry in entries if not entry.withdrawn}
    folder = output / FOLDER
    sizes = {name: size for name, size in folder.sizes().items() if "/" in name and name.endswith(".json")}
    for name, rating in parsed(folder, sizes):
        file = f"{FOLDER}/{name}"
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
