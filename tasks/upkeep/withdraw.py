"""Withdraw a subject: every trace of it goes, and it does not come back."""

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import ConfigurationError
from tasks.cohort.entry import Entry
from tasks.cohort.pseudonyms import Key
from tasks.export.folders import FOLDER as EXPORTS
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.planned import PlannedFit
from tasks.prepare.replan import tombstone
from tasks.ratings.reading import erase_unknown
from tasks.ratings.summary import fold_in
from tasks.ratings.summary import forget as forget_ratings
from tasks.report import remove_report
from tasks.run import write_pages
from tasks.storage.location import Location
from tasks.store.commit import Commit, delivered, stamps
from tasks.store.objects import NAME, part_pieces
from tasks.store.template import set_up
from tasks.viewer import remove_tables
from tasks.work.engines import Engines
from tasks.work.evaluate import erase_evaluation, evaluate_shards, unevaluated
from tasks.work.explain import explain_shards
from tasks.work.finish import finish
from tasks.work.fit import fit, fit_digest, forget
from tasks.work.images import find_again
from tasks.work.pending import pending
from tasks.work.results import compute_results, erase_stale

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Erased:
    """The account of a withdrawal.

    Attributes
    ----------
    images
        Rows of the store that hold nothing any more.
    objects
        Stored objects that were written anew without them, or deleted.
    fitted
        How many of the images were among those that artefacts were computed from; maps that were made with these stay
        as they are.
    whole
        Whether the output is finished; if not, results, report and the metrics of these shards were deleted where they
        tell of the images, and the next run makes them anew.
    """

    images: tuple[int, ...]
    objects: int
    fitted: int
    whole: bool


def withdraw(output: Location, subject: str) -> Erased:
    """Erase all images of a subject, or the one image of that id, as the cohort or the output names it.

    A subject is named as in the cohort table, as DICOM's PatientID, as by BIDS (``sub-01``), or by its pseudonym.

    Their rows stay, empty.

    What was made of the store goes first: report, exports, ratings, the viewer's tables. Then the manifest, so that one
    that is killed half-way leaves an output that knows what is to be erased: withdraw again, or run, to go on.

    Raises
    ------
    FileNotFoundError
        If there is no run at `output`.
    ConfigurationError
        If it holds no such subject, or the key is needed to tell.
    """
    plan, entries = Plan.read(output), manifest.read(output)
    names = _names(plan, entries, subject)
    if not names:
        raise ConfigurationError(
            f"output {output} holds no image or subject of the name that was given: nothing was erased"
        )
    pending(output, plan)
    rows = [row for row, entry in enumerate(entries) if not entry.withdrawn and names & entry.names]
    gone = {entries[row].id for row in rows}
    fitted = gone & {id for planned in plan.fits for id in planned.images}
    engines = Engines()
    if rows:
        plan = _without(output, plan, entries, rows, names, engines)
    _erase_beside(output, entries)
    if rows:
        plan.write(output, entries)
    empty = [row for row, entry in enumerate(entries) if entry.withdrawn]
    shards = sorted({row // plan.images_per_shard for row in empty})
    objects = _erase(output, plan, shards, engines)
    erase_stale(output, plan)
    set_up(output, plan, entries)
    whole = _evaluated_again(output, plan, shards, engines)
    if whole:
        compute_results(output, engines)
        finish(output)
        fold_in(output)
        write_pages(output)
    return Erased(tuple(rows or empty), objects, len(fitted), whole)


def _erase_beside(output: Location, entries: Sequence[Entry]) -> None:
    """Erase what was made of the store, and the ratings of images that are not among its entries."""
    remove_report(output)
    remove_tables(output)
    (output / EXPORTS).remove()
    forget_ratings(output)
    erase_unknown(output, entries)


def _names(plan: Plan, entries: Sequence[Entry], subject: str) -> set[str]:
    """Find the names that an output has, or had, for a subject or image."""
    known = {name for entry in entries for name in entry.names}
    given = {subject, subject.strip(), unicodedata.normalize("NFC", subject.strip())}
    found = {name for name in given if name in known or tombstone(name) in plan.withdrawn}
    if not found or plan.cohort.identifiers == "as given":  # where PatientIDs are keyed all the same
        keyed = {name for one in given for name in _keyed(plan.key, one)}
        found |= {name for name in keyed if name in known or tombstone(name) in plan.withdrawn}
    return found


def _keyed(key: Key, name: str) -> set[str]:
    """Make the pseudonym of a name, and of what may be a file's with the number of a frame."""
    file, _, frame = name.rpartition("#")
    return {key.pseudonym(name), *([f"{key.pseudonym(file)}#{frame}"] if file and frame.isdecimal() else [])}


def _without(
    output: Location, plan: Plan, entries: list[Entry], rows: list[int], names: set[str], engines: Engines
) -> Plan:
    """Empty some rows of the manifest in place, and make the plan that promises so."""
    gone = {entries[row].id for row in rows}
    for row in rows:
        entries[row] = Entry(id=f"withdrawn-{row}", present=False, withdrawn=True)
    shards = plan.shards.digested(entries, {row // plan.images_per_shard for row in rows})
    fits = [_fit_without(output, plan, planned, gone, entries, engines) for planned in plan.fits]
    return plan.model_copy(
        update={
            "shards": shards,
            "withdrawn": tuple(sorted({*plan.withdrawn, *map(tombstone, names)})),
            "fits": tuple(planned for planned in fits if planned.images),
        }
    )


def _fit_without(
    output: Location, plan: Plan, planned: PlannedFit, gone: set[str], entries: list[Entry], engines: Engines
) -> PlannedFit:
    """Delete an artefact that was computed from images that go; plan another from those that stay."""
    if not gone & set(planned.images):
        return planned
    forget(output, planned)
    stay = [entry for entry in entries if entry.id in planned.images]
    return PlannedFit(
        fit=planned.fit,
        outputs=planned.fit.declare(plan.frame, engines.network(plan), len(stay)),
        images=tuple(entry.id for entry in stay),
        digest=fit_digest(plan, planned.fit, stay),
    )


def _fitted_again(output: Location, plan: Plan, engines: Engines) -> bool:
    """Compute the artefacts that are missing; tell whether that could be done."""
    if plan.fitted:
        return True
    try:
        fit(output, find_again(output, plan), engines)
    except (ConfigurationError, OSError) as error:
        logger.warning("an artefact cannot be computed now, and will be by the next run: %s", error)
        return False
    return True


def _evaluated_again(output: Location, plan: Plan, shards: list[int], engines: Engines) -> bool:
    """Evaluate the shards anew, or delete what was evaluated; tell whether all that results need is there."""
    commits = delivered(output, plan)
    if len(commits) == len(plan.shards) and _fitted_again(output, plan, engines):
        evaluate_shards(output, shards, engines)
        return not unevaluated(output, plan, commits, output.sizes())
    for shard in shards:
        erase_evaluation(output, plan, plan.shards[shard])
    return False


def _erase(output: Location, plan: Plan, shards: list[int], engines: Engines) -> int:
    """Write the shards anew without what is withdrawn, and delete what no commit speaks of."""
    commits = Commit.read(output, stamps(output))
    stale = [shard for shard in shards if shard in commits and not commits[shard].is_whole(plan)]
    for shard in stale:
        explain_shards(output, [shard], engines)
    commits |= Commit.read(output, stale)
    known = {key for shard in shards if shard in commits for key in commits[shard].objects}
    there = (output / NAME).sizes()
    planned = (
        piece.key
        for shard in shards
        for part in range(len(plan.parts))
        for piece in part_pieces(plan, plan.shards[shard], part)
    )
    strays = [key for key in planned if key in there and key not in known]
    for key in strays:
        (output / NAME / key).remove()
    return sum(len(commits[shard].objects) for shard in stale) + len(strays)
