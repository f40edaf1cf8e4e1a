import threading
from collections.abc import Iterator
from contextvars import ContextVar

from tasks.work.prefetch import prefetch

run: ContextVar[str] = ContextVar("run")


def test_the_thread_that_reads_ahead_belongs_to_the_callers_run() -> None:
    def items() -> Iterator[tuple[str, str]]:
        yield threading.current_thread().name, run.get()

    run.set("this one")
    assert list(prefetch(items(), 1)) == [("read", "this one")]
