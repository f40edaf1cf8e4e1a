"""Instance normalisation, whose gradient torch takes wrongly in one case."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_FUNCTIONS = {functional.instance_norm, torch.instance_norm}


class _Mode(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outcome = func(*args, **(kwargs or {}))
        if func in _FUNCTIONS:
            self.seen = True
            if outcome.requires_grad:
                outcome.register_hook(Tensor.contiguous)
        return outcome


def contiguous_gradients() -> TorchFunctionMode:
    """Hand contiguous gradients to instance normalisation in the body.

    For one image, torch 2.9 computes a wrong gradient from one that comes channels last.
    """
    return _Mode()


def calls_instance_norm(run: Callable[[], Any]) -> tuple[bool, Any]:
    """Tell whether `run` normalises by the image, and return what it returns."""
    with (mode := _Mode()):
        outcome = run()
    return mode.seen, outcome
