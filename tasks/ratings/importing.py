"""Ratings that a page offered as downloads, brought in from a folder or prefix."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from models.errors import ConfigurationError
from tasks.cohort.entry import Entry
from tasks.ratings.inbox import Refused, parsed
from tasks.ratings.reading import Apart
from tasks.storage.location import Location


class Imported(BaseModel):
    """The account of an import.

    Attributes
    ----------
    saved
        How many ratings lie beside the store now, those that did before included.
    refused
        Files that were not taken, by their path below the folder.
    """

    model_config = ConfigDict(frozen=True)

    saved: int
    refused: tuple[Apart, ...]


def bring_in(output: Location, folder: Location, entries: Sequence[Entry]) -> Imported:
    """Copy the ratings of images of the output from a folder, with all below it, to where ratings lie.

    A rating is taken whatever maps it speaks of: that is told apart when ratings are folded in. What is there is not
    written over.

    Raises
    ------
    ConfigurationError
        If there is no such folder.
    """
    if not folder.filesystem.isdir(folder.path):
        raise ConfigurationError(f"there is no folder {folder} to import ratings from")
    known = {entry.id for entry in entries if not entry.withdrawn}
    sizes = {name: size for name, size in folder.sizes().items() if name.endswith(".json")}
    saved, refused = 0, []
    for file, rating in parsed(folder, sizes):
        if isinstance(rating, Refused):
            refused.append(Apart(file=file, kind="damaged", why=str(rating)))
        elif rating.image_id not in known:
            refused.append(Apart(file=file, kind="of an unknown image", why="the output holds no such image"))
        elif not rating.save(output):
            refused.append(Apart(file=file, kind="damaged", why="another rating of its id is there already"))
        else:
            saved += 1
    return Imported(saved=saved, refused=tuple(refused))
