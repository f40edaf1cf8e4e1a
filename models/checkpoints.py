"""Checkpoints as training leaves them: state dicts within other things, under names that a wrapper has made longer."""

import pickle
from collections.abc import Iterable, Mapping
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from models.errors import ConfigurationError

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Beginnings of names that DataParallel, `torch.compile`, Lightning and people put before those of the network."""

ALONE = "save the state dict alone, by `torch.save(network.state_dict(), path)` or safetensors"

_LONGEST_HEADER = 100_000_000
"""In bytes: safetensors reads no longer one."""

_PARTS = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch", "Size"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._tensor", "_rebuild_from_type_v2"),
        ("torch.nn.parameter", "Parameter"),
        ("torch.serialization", "_get_layout"),
    }
)


class Opaque:
    """An object of a checkpoint that is not a tensor, as nothing: whatever class it was of is not imported."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, state: Any) -> None:
        """Take any state."""

    def __call__(self, *_: Any, **__: Any) -> "Opaque":
        return Opaque()

    def append(self, _: Any) -> None:
        """Take an item of what was a list."""

    def extend(self, _: Iterable[Any]) -> None:
        """Take items of what was a list."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Take an item of what was a mapping."""


class _Unpickler(pickle.Unpickler):
    """Builds tensors and the containers around them; everything else becomes an `Opaque`."""

    def find_class(self, module: str, name: str) -> Any:
        is_storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in _PARTS or is_storage or is_type:
            return super().find_class(module, name)
        return Opaque


_PICKLE = SimpleNamespace(
    __name__=__name__, Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load()
)
"""In place of the module `pickle`, for torch."""


def is_safetensors(data: bytes) -> bool:
    """Tell whether a file is of safetensors, by its beginning: the length of a JSON header, and the header's brace.

    The length may have any bytes, those by which other formats begin, too.
    """
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _LONGEST_HEADER


def read_checkpoint(data: bytes) -> Any:
    """Read a PyTorch file of any age; of its objects, only tensors and plain containers are built.

    Raises
    ------
    Exception
        Whatever torch raises about a damaged file.
    """
    try:
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return torch.load(BytesIO(data), map_location="cpu", weights_only=False, pickle_module=_PICKLE)


def state_within(checkpoint: Any, key: str | None, field: str = "model.weights") -> tuple[str, dict[str, Tensor]]:
    """Find the state dict within a checkpoint.

    Parameters
    ----------
    key
        The place of the state dict, with dots between keys, which may lead on to the beginning of its names, such as
        ``state_dict.encoder``; None: it is the only one, or the whole.
    field
        The field of the configuration that names the file.

    Returns
    -------
    tuple
        The place, empty if it is the whole, and the state dict.

    Raises
    ------
    ConfigurationError
        If there is none at the key, or without a key none or several.
    """
    found = dict(_state_dicts(checkpoint))
    if not found:
        raise ConfigurationError(
            f"{field}: the file holds no state dict, which is names with their tensors and nothing else, but a whole "
            f"network, say, or arrays: {ALONE}"
        )
    if key is not None:
        if part := found.get(key) or _part(found, key):
            return key, part
        raise ConfigurationError(
            f"model.weights_key: there is no state dict at {key!r}, nor names that begin so; {_listed(found)}"
        )
    if "" in found:
        return "", found[""]
    if len(found) != 1 and field != "model.weights":
        raise ConfigurationError(f"{field}: save one state dict alone; {_listed(found)}")
    if len(found) != 1:
        raise ConfigurationError(f"model.weights_key: name the state dict of the network; {_listed(found)}")
    return next(iter(found.items()))


def _state_dicts(content: Any, place: str = "", depth: int = 3) -> Iterable[tuple[str, dict[str, Tensor]]]:
    """Walk through mappings for state dicts: text to tensors and nothing else; an optimizer's are left out."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield place, dict(content)
    elif depth:
        for name, value in content.items():
            if "optim" not in name:
                yield from _state_dicts(value, f"{place}.{name}" if place else name, depth - 1)


def _part(found: Mapping[str, dict[str, Tensor]], key: str) -> dict[str, Tensor]:
    """Take the tensors of a state dict whose names begin as a key goes on, without that beginning."""
    whole = ((f"{place}.{name}".removeprefix("."), value) for place in found for name, value in found[place].items())
    return {name.removeprefix(f"{key}."): value for name, value in whole if name.startswith(f"{key}.")}


def _listed(found: Mapping[str, Any]) -> str:
    return f"there are {', '.join(map(repr, found))}"


def unwrapped(state: dict[str, Tensor], own: Iterable[str], place: str = "") -> tuple[str, dict[str, Tensor]]:
    """Take away what a wrapper has put before the names of a network's tensors.

    Parameters
    ----------
    own
        Names of the network's own tensors.
    place
        The place of the state dict in its file, for messages.

    Returns
    -------
    tuple
        The beginning that was taken away, empty if none was, and the tensors whose names had it.

    Raises
    ------
    ConfigurationError
        If the state dict holds the network under several beginnings, with other numbers.
    """
    wanted = set(own)
    found = dict(_beginnings(state, wanted))
    if not found:
        return "", state
    begin, taken = next(iter(found.items()))
    others = [
        other
        for other, held in found.items()
        if other != begin and not all(torch.equal(taken[name], held[name]) for name in wanted)
    ]
    if begin and others:
        names = " and ".join(repr(name) for name in (begin, *others))
        key = f"{place}.{begin}".strip(".")
        raise ConfigurationError(
            f"model.weights hold the network more than once, under names that begin with {names}, and the numbers "
            f"differ: set the one that counts in `model.weights_key`, such as {key!r}"
        )
    return begin, taken


def _beginnings(state: Mapping[str, Tensor], wanted: set[str]) -> Iterable[tuple[str, dict[str, Tensor]]]:
    """Walk through the beginnings under which a state dict has all names, the shortest first."""
    begins = [""]
    while begins and wanted:
        begin = begins.pop(0)
        within = {name.removeprefix(begin): value for name, value in state.items() if name.startswith(begin)}
        if wanted <= within.keys():
            yield begin, within
        begins += [begin + one for one in WRAPPERS if any(name.startswith(begin + one) for name in state)]
