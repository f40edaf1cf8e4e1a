"""The course of an export: what is exported, where to, and the work of one process."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from models.errors import ConfigurationError
from models.explainers.base import CONTROLS, MAPS
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry
from tasks.cohort.reading import Unreadable
from tasks.cohort.selection import ALL, Selection
from tasks.cohort.sources import Find, Sources
from tasks.export import FORMATS
from tasks.export.cases import Cases
from tasks.export.drawn import SHOWN
from tasks.export.folders import FOLDER, held, is_whole, is_within, place_of, sweep, written
from tasks.export.format import CannotExport
from tasks.export.native import check_way_back
from tasks.export.threshold import STANDARD, Threshold
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.shards import digest_of
from tasks.ratings.rating import Rating
from tasks.ratings.reading import ratings_of
from tasks.report.pictures import Scale, shared_scales
from tasks.storage.location import Location
from tasks.store.commit import Commit, delivered
from tasks.store.template import EXPLAINED, STATUS, open_store
from tasks.work.evaluate import Evaluation
from tasks.work.finish import status
from tasks.work.images import survey_again
from tasks.work.results import ResultRecord

logger = logging.getLogger("cohortlens")


class Export(BaseModel):
    """An export: the explainers, formats and place that were asked for, which is all that a worker is told.

    Attributes
    ----------
    cohort
        The cohort as this place finds it; None: as the output names it.
    explainers
        Whose maps are exported.
    scales
        The colours of each explainer, the same for all cases.
    threshold
        The rule by which maps mark regions, as `Threshold.of` reads it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Location
    to: Location
    formats: tuple[str, ...]
    explainers: tuple[str, ...]
    scales: tuple[Scale, ...]
    threshold: str = STANDARD
    cohort: CohortConfig | None = None

    @property
    def plan(self) -> Plan:
        plan = Plan.read(self.output)
        return plan.model_copy(update={"cohort": self.cohort}) if self.cohort else plan


@dataclass(frozen=True)
class Chosen:
    """The images that are exported, by their rows in the store.

    Attributes
    ----------
    left_out
        Number of the others that were asked for, by what became of them: quarantined, failed, withdrawn, pending.
    """

    rows: list[int]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Exported:
    """The outcome of an export.

    Attributes
    ----------
    written, kept
        Number of cases that were written, and that were there already, over all formats.
    failed
        By pseudonym, why a case could not be exported.
    """

    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Self) -> "Exported":
        return Exported(self.written + other.written, self.kept + other.kept, self.failed | other.failed)


def check(
    output: Location,
    formats: Sequence[str],
    to: Location | None = None,
    explainers: Sequence[str] = (),
    cohort: CohortConfig | None = None,
    threshold: str = STANDARD,
) -> Plan:
    """Check what is asked for, before anything is read of the cohort or of maps; give the plan of the output.

    Parameters
    ----------
    formats
        Names of `FORMATS`.
    to
        Where the cases go; None: the folder ``exports`` of the output.
    explainers
        Whose maps are exported; none: all but the controls.
    cohort
        The cohort as this machine finds it, where that is another place than the output names.
    threshold
        The rule by which maps mark regions, as `Threshold.of` reads it.

    Raises
    ------
    FileNotFoundError
        If there is no run at `output`.
    ConfigurationError
        If a format or an explainer is not known, a format is not installed, or maps cannot be brought back.
    """
    plan = Plan.read(output)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigurationError(f"--format {unknown[0]}: there is no such format; there are {', '.join(FORMATS)}")
    for name in formats:
        FORMATS[name].check()
    if unknown := [name for name in explainers if name not in plan.maps]:
        raise ConfigurationError(
            f"--explainer {unknown[0]}: the output has maps by {', '.join(plan.maps) or 'no explainer'}"
        )
    Threshold.of(threshold)
    if cohort and plan.model_copy(update={"cohort": cohort}).deciding_cohort != plan.deciding_cohort:
        raise ConfigurationError(
            "cohort: the configuration reads or prepares images in another way than the output was made in: give the "
            "one that it was made with"
        )
    check_way_back(plan.cohort)
    _check_apart(output, to or output / FOLDER, formats)
    return plan


def draw_up(
    output: Location,
    formats: Sequence[str],
    to: Location | None = None,
    explainers: Sequence[str] = (),
    cohort: CohortConfig | None = None,
    threshold: str = STANDARD,
) -> Export:
    """Say what is exported, and in which colours; `check` says what is taken and raised."""
    plan = check(output, formats, to, explainers, cohort, threshold)
    named = tuple(dict.fromkeys(explainers)) or tuple(name for name in plan.maps if not name.startswith(CONTROLS))
    return Export(
        output=output,
        to=to or output / FOLDER,
        formats=tuple(formats),
        explainers=named,
        scales=tuple(_scales(output, plan, named)),
        threshold=threshold,
        cohort=cohort,
    )


def choose(export: Export, ids: Sequence[str] = ()) -> Chosen:
    """Choose images by the pseudonyms of images or subjects; none: all.

    Raises
    ------
    ConfigurationError
        If the output has no image or subject of that name, or the key is not at hand by which their files are found.
    """
    plan, entries = export.plan, manifest.read(export.output)
    became = status(plan, delivered(export.output, plan))
    asked = [row for row, entry in enumerate(entries) if not ids or entry.names & {*ids}]
    known = {name for row in asked for name in entries[row].names}
    if unknown := [id for id in ids if id not in known]:
        raise ConfigurationError(f"--id {unknown[0]}: the output {export.output} has no such image or subject")
    rows = [row for row in asked if became[row] == EXPLAINED]
    left_out = Counter(STATUS[became[row]] for row in asked if became[row] != EXPLAINED)
    if rows:
        _check_key(plan, [entries[row].id for row in rows])
    return Chosen(rows, dict(left_out))


def find_sources(export: Export, ids: Sequence[str] = ()) -> Sources:
    """Find the files of images or subjects of some pseudonyms, none: of all, by surveying the cohort once more."""
    return survey_again(export.output, export.plan, Selection(ids=tuple(ids)) if ids else ALL)


def export_rows(export: Export, rows: Sequence[int], find: Find, check: Callable[[], None] = lambda: None) -> Exported:
    """Export some images; those whose folders are whole, and made of the same, are left alone.

    Regions that raters drew are those of the ratings which are there when an image's shard is begun with.

    Parameters
    ----------
    check
        Called before every image; raises if nobody wants the work any more.
    """
    plan, done = export.plan, Exported()
    cases = Cases(export.output, plan, export.explainers, export.scales, Threshold.of(export.threshold), find)
    shards = {shard: [*own] for shard, own in groupby(rows, lambda row: row // plan.images_per_shard)}
    for (shard, own), entries in zip(shards.items(), manifest.read_each(export.output, shards), strict=True):
        stored = _stored(export.output, plan, shard)
        asked = {row: entries[row - plan.shards[shard].start] for row in own}
        ratings = ratings_of(export.output, plan, asked)
        for row, entry in asked.items():
            check()
            done += _export_one(export, cases, row, entry, stored, ratings.get(entry.id, []))
    return done


def export(
    output: Location,
    formats: Sequence[str],
    to: Location | None = None,
    ids: Sequence[str] = (),
    explainers: Sequence[str] = (),
    cohort: CohortConfig | None = None,
    threshold: str = STANDARD,
) -> tuple[Chosen, Exported]:
    """Export images in this process; `draw_up` and `choose` say what is taken and raised."""
    drawn_up = draw_up(output, formats, to, explainers, cohort, threshold)
    chosen = choose(drawn_up, ids)
    with held(output, to, "export"):
        sweep(drawn_up.to, drawn_up.formats)
        sources = find_sources(drawn_up, ids) if chosen.rows else Sources({})
        return chosen, export_rows(drawn_up, chosen.rows, sources)


def _export_one(
    export: Export, cases: Cases, row: int, entry: Entry, stored: Mapping[str, str], ratings: Sequence[Rating]
) -> Exported:
    """Export one image in all formats that lack it."""
    places = {name: place_of(export.to, name, entry.id) for name in export.formats}
    drawn = {one.key: digest_of(one.model_dump(mode="json", include={*SHOWN})) for one in ratings if one.region}
    digests = {
        name: _digest(export, cases.plan, entry, {**stored, **(drawn if FORMATS[name].shows_drawn else {})}, name)
        for name in places
    }
    lacking = [name for name, place in places.items() if not is_whole(place, digests[name])]
    kept = len(places) - len(lacking)
    if not lacking:
        return Exported(kept=kept)
    try:
        case = cases.read(row, entry, ratings)
    except Unreadable as reason:
        return _failed(entry, [reason], 0, kept)
    refused = []
    for name in lacking:
        try:
            with written(places[name], digests[name]) as folder:
                FORMATS[name].write(case, folder)
        except CannotExport as reason:
            refused.append(reason)
        except OSError as error:
            if error.errno is None or error.filename:
                raise
            raise OSError(error.errno, error.strerror, places[name].url) from error  # a full disk does not say which
        except Exception as error:  # one image must not stop the export
            refused.append(CannotExport(f"{name} fails with {type(error).__name__}: export it in another format"))
    return _failed(entry, refused, len(lacking) - len(refused), kept) if refused else Exported(len(lacking), kept)


def _failed(entry: Entry, reasons: Sequence[Exception], done: int, kept: int) -> Exported:
    text = "; ".join(dict.fromkeys(map(str, reasons)))
    logger.warning("image %s is not exported: %s", entry.id, text)
    return Exported(done, kept, {entry.id: text})


def _stored(output: Location, plan: Plan, shard: int) -> dict[str, str]:
    """Collect the digests of what is stored of a shard, and of the results, by key."""
    records: list[Commit | Evaluation] = [*Commit.read(output, [shard]).values()]
    records += Evaluation.read(output, [shard]).values() if plan.evaluated else []
    results = ResultRecord.read_keys(output, [planned.title for planned in plan.results])
    objects = [record.objects for record in records] + [one.delivered.objects for one in results.values()]
    return {key: stored.sha256 for by_key in objects for key, stored in by_key.items()}


def _digest(export: Export, plan: Plan, entry: Entry, stored: Mapping[str, str], format: str) -> str:
    """SHA-256 over all that a case is made of."""
    return digest_of(
        {
            "entry": asdict(entry),
            "stored": stored,
            "cohort": plan.deciding_cohort,
            "scales": [asdict(scale) for scale in export.scales],
            "format": (format, FORMATS[format].version),
            "threshold": export.threshold if FORMATS[format].marks else "",
        }
    )


def _check_key(plan: Plan, ids: Sequence[str]) -> None:
    try:
        plan.key.secret  # noqa: B018 # it raises if it is not at hand
    except ConfigurationError as error:
        others = f" and {len(ids) - 1} others" if len(ids) > 1 else ""
        raise ConfigurationError(f"the files of {ids[0]}{others} cannot be found: {error}") from None


def _check_apart(output: Location, to: Location, formats: Sequence[str]) -> None:
    """Keep files that name patients out of the output, which knows them by pseudonyms alone."""
    inside = is_within(to, output)
    naming = [name for name in formats if FORMATS[name].identifies]
    if inside and naming:
        raise ConfigurationError(
            f"--format {naming[0]}: its files name the patient as the source's do, and the output holds pseudonyms "
            "alone: name another folder by --to"
        )
    if inside and to.url.rstrip("/") != (output / FOLDER).url:
        raise ConfigurationError(f"--to {to}: the output's own folder for exports is {FOLDER}: leave --to out")


def _scales(output: Location, plan: Plan, explainers: Sequence[str]) -> list[Scale]:
    """Find the colours of each explainer, over what is delivered so far."""
    explained = np.flatnonzero(status(plan, delivered(output, plan)) == EXPLAINED).tolist()
    return shared_scales(open_store(output)[MAPS].sel(explainer=list(explainers)), explained) if explainers else []
