"""NIfTI-1 and NIfTI-2, plain or gzipped."""

import gzip
import math
from io import BytesIO
from typing import Any

import nibabel
import numpy as np

from tasks.cohort.reading import Decoded, Unreadable, check_decoded, check_length

HEAD = 540
"""Bytes of the longer of the two headers."""

_TRAILING = 2**20
"""Bytes after the voxels that are passed over."""


def is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def values(data: bytes) -> int:
    """How many voxels the header declares.

    Raises
    ------
    Unreadable
        If a file that is not compressed holds less.
    """
    if data.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
            return math.prod(_header(stream.read(HEAD)).get_data_shape())
    header = _header(data[:HEAD])
    check_length(_promised(header), len(data))
    return math.prod(header.get_data_shape())


def read(data: bytes, largest: int) -> Decoded:
    """Read ``(i, j[, k[, channel]])`` as ``(channel, [k,] j, i)``; scaled, with the sform or qform affine if any."""
    check_decoded(4 * values(data), largest)
    if data.startswith(b"\x1f\x8b"):
        data = _expanded(data)
    image = _kind(data).from_bytes(data)
    voxels = np.asarray(image.dataobj)
    if voxels.dtype.kind not in "buif":
        raise Unreadable(f"voxels of type {voxels.dtype.type.__name__}: convert them to integers or floats")
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if not 2 <= voxels.ndim <= 4:
        raise Unreadable(f"shape {voxels.shape}: a picture, a volume, or a volume with channels last is needed")
    voxels = np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else voxels[None]
    pixels = voxels.transpose(0, *range(voxels.ndim - 1, 0, -1)).astype(np.float32)
    is_placed = image.header["sform_code"] > 0 or image.header["qform_code"] > 0
    affine = image.affine[:, [2, 1, 0, 3]].astype(np.float64) if is_placed else None
    return Decoded(np.ascontiguousarray(pixels), affine)


def _expanded(data: bytes) -> bytes:
    """Decompress what the header promises and the little that may follow, never all that the file would expand to."""
    with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
        head = stream.read(HEAD)
        promised = _promised(_header(head))
        body = head + stream.read(max(0, promised - len(head)))
        check_length(promised, len(body))
        if len(stream.read(_TRAILING + 1)) > _TRAILING:  # also comes to the checksum at the end
            raise Unreadable(f"the gzip expands to more than the {promised} bytes that its header declares: damaged")
    return body


def _promised(header: Any) -> int:
    """Bytes up to the last voxel."""
    return int(header["vox_offset"]) + math.prod(header.get_data_shape()) * int(header.get_data_dtype().itemsize)


def _header(head: bytes) -> Any:
    if b"ni1\0" in head[344:348] or b"ni2\0" in head[4:8]:
        raise Unreadable("a NIfTI header without its image (.hdr): convert the pair to one .nii file")
    header_class = _kind(head).header_class
    header = header_class(head[: header_class.template_dtype.itemsize], check=False)
    if any(size < 0 for size in header.get_data_shape()) or header["vox_offset"] < 0:
        raise Unreadable("the header declares negative sizes: damaged; copy the file again from its source")
    return header


def _kind(data: bytes) -> Any:
    return nibabel.Nifti2Image if data[4:8] == b"n+2\0" else nibabel.Nifti1Image
