"""The place where the work is done, which decides nothing of the result."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The place where the work is done; it decides nothing of the result.

    Attributes
    ----------
    threads
        Threads that a worker computes with.
    memory_limit
        A worker's memory in bytes; None if it is not known.
    elsewhere
        Whether the workers may be of other machines, whose processors are unknown here.
    """

    workers: int = 1
    threads: int = 1
    memory_limit: int | None = None
    elsewhere: bool = False


HERE = Place()
