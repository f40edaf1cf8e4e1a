"""Imports of what a worker otherwise imports with its first shard, for processes that others are forked from."""

import ctypes
from importlib import import_module

import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

_MODULES = (
    "models.networks",
    "monai.data",
    "monai.networks.nets",
    "monai.transforms",
    "PIL.BmpImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
)

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3

for _name in _MODULES:
    import_module(_name)
pa.array([0])  # Arrow imports what it needs for pandas with its first array


def use_threads(count: int) -> None:
    """Compute with so many threads: torch and BLAS were imported before the number was known."""
    torch.set_num_threads(count)
    threadpool_limits(count)


def keep_memory(threshold: int, pad: int) -> None:
    """Let malloc keep freed memory of less than `threshold` bytes and take `pad` at once, if it is glibc's.

    ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_TOP_PAD_`` say so to a process that begins.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, size in ((_M_TRIM_THRESHOLD, threshold), (_M_TOP_PAD, pad), (_M_MMAP_THRESHOLD, threshold)):
            mallopt(option, size)
