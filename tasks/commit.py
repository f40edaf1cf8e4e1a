"""The commit: the record, written last, that says a shard has been delivered whole."""

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.plan import Plan
from tasks.storage import Location

FOLDER = "commits"


class StoredObject(BaseModel):
    """One stored object: its SHA-256 and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int


class Commit(BaseModel):
    """What one shard delivered.

    Attributes
    ----------
    digest
        The shard's digest in the plan that was carried out.
    objects
        Every stored object by its key in the store.
    status
        One of the store's status codes an image, in the shard's order.
    reasons
        Image id to why it is quarantined or failed.
    flagged
        Images with a flag of their own or on one of their maps.
    flags
        Such images by flag in words, such as "map blank"; without those that no image has.
    seconds
        Time spent by stage; stages overlap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: int
    digest: str
    plan: str
    objects: dict[str, StoredObject]
    status: tuple[int, ...]
    reasons: dict[str, str]
    flagged: int
    flags: dict[str, int]
    seconds: dict[str, float]

    def write(self, output: Location) -> None:
        _location(output, self.shard).write(self.model_dump_json(indent=1).encode())


def delivered(output: Location, plan: Plan) -> dict[int, Commit]:
    """Read the valid commits of `plan`, by shard. A damaged or foreign one counts as missing."""
    urls = [(output / FOLDER / name).url for name in names(output)]
    found = {}
    for data in output.read_all(urls) if urls else []:
        if isinstance(data, FileNotFoundError):
            continue
        if isinstance(data, Exception):
            raise data
        try:
            commit = Commit.model_validate_json(data)
        except ValidationError:
            continue
        if commit.plan == plan.digest:
            found[commit.shard] = commit
    return found


def names(output: Location) -> list[str]:
    """The file names of the commits that are there; one request, so that it can be asked often."""
    folder = output / FOLDER
    try:
        paths = folder.filesystem.ls(folder.path, detail=False)
    except FileNotFoundError:
        return []
    return sorted(name for path in paths if (name := path.rsplit("/", 1)[-1]).endswith(".json"))


def _location(output: Location, shard: int) -> Location:
    return output / FOLDER / f"{shard:06d}.json"
