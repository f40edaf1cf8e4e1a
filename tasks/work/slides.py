"""Slides of the cohort: read by ranges, and held against the plan by the stamps of their files."""

from contextlib import ExitStack

from models.errors import ConfigurationError
from tasks.cohort.entry import Entry, Fact
from tasks.cohort.slides.bag import Bag, make_bag
from tasks.cohort.slides.opening import opened
from tasks.cohort.sources import Source
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.work.misfits import NotAsPlanned, openable

_CHANGED = "the slide changed after the run was planned: run again"


def read_bag(plan: Plan, entry: Entry, source: Source) -> Bag:
    """Read the tiles of a slide.

    A file is what the plan has seen if its stamp is the same before its tiles are read, or else its SHA-256, and does
    not change meanwhile.

    Raises
    ------
    Unreadable
        If the slide is not as planned, or cannot be read.
    OSError
        If its storage does not answer.
    """
    assert plan.cohort.slides is not None
    facts = tuple(fact for one in entry.sources if one.kind == "image" for fact in one.files)
    places = [plan.cohort.home.at(uri) for uri in source.uris]
    if len(facts) != len(places):
        raise NotAsPlanned(_CHANGED)
    with openable(), ExitStack() as stack:
        before = [place.stamp() for place in places]
        files = [stack.enter_context(place.open()) for place in places]
        for place, file, fact, stamp in zip(places, files, facts, before, strict=True):
            if not _is_known(plan, place, fact, stamp) and file.digest() != fact.digest:
                raise NotAsPlanned(_CHANGED)
        with opened(files) as slide:
            bag = make_bag(slide, plan.cohort.slides)
        if [place.stamp() for place in places] != before:
            raise NotAsPlanned(_CHANGED)
    return bag


def _is_known(plan: Plan, place: Location, fact: Fact, stamp: str) -> bool:
    """Tell whether a file is the one that was digested, by its name and its stamp."""
    try:
        return stamp == fact.stamp and plan.key.pseudonym(place.url) == fact.file
    except ConfigurationError:  # the key of the names is not at hand here
        return False
