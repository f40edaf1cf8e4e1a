"""Reasons why an image is not explained that a worker finds, beside those of readers."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.cohort.reading import Unreadable
from tasks.storage.location import nameless


class Misfit(Unreadable):
    """The preprocessing does not take the image to what the network takes."""


class NotAsPlanned(Unreadable):
    """The source is not what the plan had seen; it may be again, so that the next run tries once more."""


@contextmanager
def openable() -> Iterator[None]:
    """Make a reason of a file that is gone or closed to us; what else its storage says ends the run, without a path.

    Raises
    ------
    NotAsPlanned
        If the file is not there, or must not be read.
    OSError
        If its storage does not answer.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise NotAsPlanned(f"a file of the image cannot be opened ({type(error).__name__})") from None
    except OSError as error:
        raise nameless(error, "a file of the cohort cannot be read") from None
