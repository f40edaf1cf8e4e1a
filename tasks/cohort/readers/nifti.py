"""Read NIfTI-1 and NIfTI-2, plain or gzipped."""

import gzip
import math
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, ClassVar

import nibabel
import numpy as np

from tasks.cohort.reading import Declared, Decoded, Reader, Request, Unreadable, check_decoded, check_length

_GZIP = b"\x1f\x8b"

_HEAD = 540
"""The longer of the two headers has this many bytes."""

_TRAILING = 2**20
"""This many bytes after the voxels are passed over."""


class Nifti(Reader):
    """The reader of NIfTI: ``(i, j[, k[, channel]])`` becomes ``(channel, [k,] j, i)``.

    Voxels are scaled as the header says. The affine is the sform's or the qform's, if there is one.
    """

    formats: ClassVar = {"nifti": "NIfTI"}
    loggers = ("nibabel", "nibabel.global")

    def recognise(self, data: bytes) -> str | None:
        """Recognise the magic string within the header, which is unpacked if need be."""
        head = _gunzip_head(data) if data.startswith(_GZIP) else data[:_HEAD]
        is_nifti = head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")
        return "nifti" if is_nifti else None

    def header(self, data: bytes) -> Declared:
        """Refuse a header without its image, and a file that holds less than it declares unless it is compressed."""
        if data.startswith(_GZIP):
            with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
                return Declared(math.prod(_header(stream.read(_HEAD)).get_data_shape()))
        header = _header(data[:_HEAD])
        check_length(_promised(header), len(data))
        return Declared(math.prod(header.get_data_shape()))

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Refuse voxels that are no real numbers, and shapes that are neither picture nor volume."""
        (data,) = parts
        check_decoded(4 * self.header(data).values, request.largest)
        if data.startswith(_GZIP):
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


def _gunzip_head(data: bytes) -> bytes:
    """Decompress what a header may be of, of a file that need not be NIfTI."""
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
            return stream.read(_HEAD)
    except EOFError:
        return b""
    except (OSError, zlib.error) as error:
        raise Unreadable(f"damaged gzip ({type(error).__name__}): copy the file again from its source") from None


def _expanded(data: bytes) -> bytes:
    """Decompress what the header promises and the little that may follow, never all that the file would expand to."""
    with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
        head = stream.read(_HEAD)
        promised = _promised(_header(head))
        body = head + stream.read(max(0, promised - len(head)))
        check_length(promised, len(body))
        if len(stream.read(_TRAILING + 1)) > _TRAILING:  # also comes to the checksum at the end
            raise Unreadable(f"the gzip expands to more than the {promised} bytes that its header declares: damaged")
    return body


def _promised(header: Any) -> int:
    """Tell how many bytes a file has up to its last voxel."""
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
