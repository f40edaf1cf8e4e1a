"""The selection of images that one run is about; the others stay in its output as they are."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from models.errors import ConfigurationError
from tasks.cohort.entry import Entry
from tasks.cohort.modalities import MODALITIES
from tasks.cohort.sources import Listed
from tasks.storage.location import Location

SCHEDULED = "scheduled"

_TRIED = 4
"""This many neighbouring images are tried for one that can be read."""

T = TypeVar("T")


class Selection(BaseModel):
    """Images that a run explains if the output lacks them; empty: all. What is not selected stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[str, ...] = Field((), description="Images or subjects, by the pseudonyms that the output gives them")
    modality: tuple[str, ...] = Field((), description="DICOM modalities, such as CT, MR, DX, MG; other files have none")
    modified_after: AwareDatetime | None = Field(None, description="Files that were stored at this time or later")
    modified_before: AwareDatetime | Literal["scheduled"] | None = Field(
        None,
        description="Files that were stored before this time; `scheduled`: the time that the run was scheduled for, so "
        "that a run which starts late, or twice, does the same work",
    )
    first: int | None = Field(
        None, ge=1, description="This many images, spread evenly over those that are selected otherwise; none: all"
    )

    @field_validator("ids")
    @classmethod
    def _without_blanks(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(id.strip() for id in ids)

    @field_validator("modality")
    @classmethod
    def _known(cls, modality: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted({*modality} - MODALITIES):
            raise ConfigurationError(
                f"DICOM has no modality {', '.join(unknown)}; it has {', '.join(sorted(MODALITIES))}"
            )
        return modality

    def at(self, scheduled: datetime) -> "Selection":
        """Give `scheduled` its time."""
        return self.model_copy(update={"modified_before": scheduled}) if self.modified_before == SCHEDULED else self

    def by_listing(
        self, home: Location, listed: Sequence[Listed], alias: Callable[[str], str]
    ) -> Callable[[Listed], bool]:
        """Make what tells of an image whether ids and times can select it, which needs no file to be read.

        Where an id is none of a cohort's own names, it may be a patient's, whom only the files name.

        Parameters
        ----------
        home
            Where the files of `listed`, all images, lie.
        alias
            Turns a name of the cohort into the output's.

        Raises
        ------
        ConfigurationError
            If the time that the run was scheduled for was never given.
        """
        after, before = self.modified_after, self.modified_before
        if isinstance(before, str):
            raise ConfigurationError("only.modified_before is `scheduled`, but this run has no schedule: give a time")
        files = {file for image in listed for file in image.source.files} if after or before else ()
        times: Mapping[str, datetime] = home.times_of(files)
        ids = set(self.ids)
        named = {alias(name) for image in listed for name in image.called} if ids else set()
        ids = {id if id in named else id.rpartition("#")[0] or id for id in ids}  # name#3 is a frame of name
        all_named = ids <= named

        def selects(image: Listed) -> bool:
            if ids and all_named and not ids & {alias(name) for name in image.called}:
                return False
            # A file that is not listed has no time, and is selected: its absence is to be noticed.
            stored = [times[file] for file in image.source.files if file in times]
            return not (
                (before and any(time >= before for time in stored))
                or (after and stored and all(time < after for time in stored))
            )

        return selects

    def by_sample(self, listed: Sequence[Listed], can_be_read: Callable[[Listed], bool]) -> list[Listed]:
        """Choose images for `first`: of each of as many stretches of a listing, one that can be read if it has some."""
        count = min(self.first or len(listed), len(listed))
        bounds = [len(listed) * part // (count or 1) for part in range(count + 1)]
        stretches = (listed[begin:end] for begin, end in pairwise(bounds))
        return [next(filter(can_be_read, stretch[:_TRIED]), stretch[0]) for stretch in stretches]

    def sampled(self, entries: Sequence[Entry]) -> list[Entry]:
        """Keep as many images as `first` says, evenly spread; the quarantined ones only if there are no others."""
        if self.first is None:
            return [*entries]
        readable = spread([entry for entry in entries if not entry.reason], self.first)
        others = spread([entry for entry in entries if entry.reason], self.first - len(readable))
        kept = {entry.id for entry in (*readable, *others)}
        return [entry for entry in entries if entry.id in kept]

    def by_header(self, entry: Entry) -> bool:
        """Tell whether what a file says of itself selects the image: its modality, and whose image it is."""
        if self.ids and not entry.names & set(self.ids):
            return False
        of_images = (fact for source in entry.sources if source.kind == "image" for fact in source.files)
        return not self.modality or any(fact.modality in self.modality for fact in of_images)


def spread(items: Sequence[T], count: int) -> list[T]:
    """Take `count` items, or all there are, in the middles of as many even stretches."""
    count = min(count, len(items))
    return [items[(2 * part + 1) * len(items) // (2 * count)] for part in range(count)]


ALL = Selection()
