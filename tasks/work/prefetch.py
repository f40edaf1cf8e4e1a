"""Items are made in a thread of their own, before they are taken."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


def one_first(items: Iterable[T], then: threading.Event) -> Iterator[T]:
    """Make one item, and the others when something has happened."""
    for item in items:
        yield item
        then.wait()


def prefetch(items: Iterable[T], depth: int) -> Generator[T]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of who takes them.

    The thread runs in a copy of the caller's context: what it logs belongs to the same run.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            if all(offer("item", item) for item in items):
                offer("end", None)
        except BaseException as error:  # handed to the thread that takes the items
            offer("error", error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="read", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()
