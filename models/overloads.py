"""Operations of exported programs as the functions of torch that rules know.

The graph of an exported program calls ATen's operations, such as ``aten.conv2d.default``, and a mode over functions of
torch sees those. Where a rule knows a function by itself, that function is looked up; any other operation is its packet
of overloads, which has the name of the function and takes the same arguments.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch._ops import OpOverload
from torch.nn import functional

_DIMS = (1, 2, 3)
_FUNCTIONS = {
    name: getattr(functional, name)
    for name in (
        *("linear", "relu", "relu_", "pad", "batch_norm", "layer_norm", "group_norm", "instance_norm"),
        *(f"{kind}{dims}d" for kind in ("conv", "conv_transpose", "max_pool") for dims in _DIMS),
    )
}
_ORDERS = {
    "batch_norm": (0, 3, 4, 1, 2, 5, 6, 7),
    "instance_norm": (0, 3, 4, 1, 2, 5, 6, 7),
    "layer_norm": (0, 1, 2, 3, 4),
    "group_norm": (0, 1, 2, 3, 4),
}
"""By operation, the places of its arguments in the order of the function; the last, of cuDNN, is left out."""


def as_function(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Take a call as a mode sees it to a call of a function of torch; any but that of an overload stays as it is."""
    if not isinstance(func, OpOverload):
        return func, tuple(args), dict(kwargs or {})
    name = func.overloadpacket.__name__
    if name in _ORDERS:
        args = [args[place] for place in _ORDERS[name] if place < len(args)]
    return _FUNCTIONS.get(name, func.overloadpacket), tuple(args), dict(kwargs or {})
