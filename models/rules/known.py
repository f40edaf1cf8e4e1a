"""Notes on tensors: a rule finds here what it knows of the tensor that a function takes."""

from typing import Generic, TypeVar

from torch import Tensor

Note = TypeVar("Note")


class Known(Generic[Note]):
    """Notes on tensors, by the tensor itself; each ends when its tensor, or a view of that, is changed in place."""

    def __init__(self) -> None:
        self._notes: list[tuple[Tensor, int, Note]] = []

    def note(self, tensor: Tensor, what: Note) -> None:
        self._notes.append((tensor, tensor._version, what))

    def of(self, tensor: object) -> Note | None:
        """Look up the note on a tensor; None where there is none."""
        found = (what for known, version, what in self._notes if known is tensor and known._version == version)
        return next(found, None)
