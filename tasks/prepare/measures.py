"""A check of the cohort's measures, before anything is computed."""

from collections.abc import Iterable, Sequence

from models.errors import ConfigurationError
from models.results import Result
from models.results.concepts import FEWEST
from models.results.ridge import FOLDS
from tasks.cohort.entry import Entry


def check_measures(named: Sequence[str], entries: Sequence[Entry], results: Iterable[Result]) -> None:
    """Check that the measures of results are read from the cohort table, and that their values differ.

    Parameters
    ----------
    named
        The measures that `cohort.measures` names.

    Raises
    ------
    ConfigurationError
        If one is not read, or is the same in all images of at least as many subjects as it takes to compare them.
    """
    for result in results:
        for name in result.reads_measures():
            if name not in named:
                raise ConfigurationError(
                    f"cohort.measures: {result.title} is computed from {name!r}, which is not named there: name the "
                    "column"
                )
            place = named.index(name)
            having = [entry for entry in entries if entry.measures and entry.measures[place] is not None]
            values = {entry.measures[place] for entry in having}
            subjects = {entry.subject or entry.id for entry in having}
            if len(values) == 1 and len(having) >= FEWEST and len(subjects) >= FOLDS:
                raise ConfigurationError(
                    f"cohort.measures: {name!r} is {values.pop():g} in all {len(having)} images that have it, and a "
                    f"constant measure tells nothing: leave it out of {result.title}"
                )
