"""Read NIfTI-1 and NIfTI-2, plain or gzipped."""

import gzip
import math
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, ClassVar

import nibabel
import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from tasks.cohort.reading import Counts, Declared, Decoded, Reader, Request, Unreadable, check_decoded, check_length

_GZIP = b"\x1f\x8b"

_HEAD = 540
"""The longer of the two headers has this many bytes."""

_EXTENSIONS = 16 * 2**20
"""The voxels begin within this many bytes after the header."""

_TRAILING = 2**20
"""This many bytes after the voxels are passed over."""

_AT_ONCE = 2**18
"""Voxels that are converted at once, so that a volume takes little more memory than its pixels as float32."""

_SINGULAR = 1e-6
"""Three axes of length 1 span less than this if they lie in one plane."""

_SMALLEST, _FURTHEST = 1e-6, 1e6
"""Voxels are no smaller, and nothing of a patient lies further from the origin, in mm."""

_MILLIMETRES = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
"""The mm in a header's unit of length by its code (xyzt_units): unknown, m, mm, µm."""


class Nifti(Reader):
    """The reader of NIfTI: ``(i, j[, k[, channel]])`` becomes ``(channel, [k,] j, i)``.

    Voxels are scaled as the header says. The affine is the sform's or the qform's, if there is one, in mm whatever the
    header's unit. Its pictures are the slices of all time points, one time point after the other; its volumes are the
    time points.
    """

    formats: ClassVar = {"nifti": "NIfTI"}
    loggers = ("nibabel", "nibabel.global")

    def recognise(self, data: bytes) -> str | None:
        """Recognise the magic string within the header, which is unpacked if need be."""
        head = _gunzip_head(data) if data.startswith(_GZIP) else data[:_HEAD]
        is_nifti = head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")
        return "nifti" if is_nifti else None

    def header(self, data: bytes) -> Declared:
        """Refuse a header without its image, a geometry that is none, and a plain file that is cut."""
        with _opened(data) as stream:
            header = _header(stream.read(_HEAD))
        declared = _declared(header, data)
        _affine(header)
        return declared

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Refuse shapes that are neither picture nor volume."""
        (data,) = parts
        with _opened(data) as stream:
            header = _header(stream.read(_HEAD))
            declared = _declared(header, data)
            affine = _affine(header)
            frames = 1 if request.frame is None else declared.counts.of(request.spatial_dims)
            check_decoded(4 * declared.values // frames, request.largest)
            shape = header.get_data_shape()
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            if not 2 <= len(shape) <= 4:
                raise Unreadable(f"shape {shape}: a picture, a volume, or a volume with channels last is needed")
            count = declared.values // frames
            voxels = _voxels(header, stream, ((request.frame or 1) - 1) * count, count)
            stream.seek(_end(header))
            check_length(_end(header), stream.tell())
            if len(stream.read(_TRAILING + 1)) > _TRAILING and data.startswith(_GZIP):  # also comes to the checksum
                raise Unreadable(
                    f"the gzip expands to more than the {_end(header)} bytes that its header declares: damaged"
                )
        affine = None if affine is None else affine[:, [2, 1, 0, 3]]
        if request.spatial_dims == 2 and (request.frame is not None or request.as_channels):
            pixels = voxels.reshape(-1, *shape[1::-1])
            middle = len(pixels) // 2 if request.frame is None else request.frame - 1
            return Decoded(pixels, affine if affine is None else _of_slice(affine, middle % math.prod(shape[2:3])))
        if request.frame is not None:
            shape = shape[:3]
        return Decoded(voxels.reshape(shape[::-1] if len(shape) == 4 else (1, *shape[::-1])), affine)


def _declared(header: Any, data: bytes) -> Declared:
    """Say what a header declares; a plain file holds all of it."""
    if not data.startswith(_GZIP):
        check_length(_end(header), len(data))
    shape = header.get_data_shape()
    return Declared(math.prod(shape), counts=Counts(math.prod(shape[2:]), math.prod(shape[3:])))


def _gunzip_head(data: bytes) -> bytes:
    """Decompress what a header may be of, of a file that need not be NIfTI."""
    try:
        with _opened(data) as stream:
            return stream.read(_HEAD)
    except EOFError:
        return b""
    except (OSError, zlib.error) as error:
        raise Unreadable(f"damaged gzip ({type(error).__name__}): copy the file again from its source") from None


def _opened(data: bytes) -> gzip.GzipFile | BytesIO:
    return gzip.GzipFile(fileobj=BytesIO(data)) if data.startswith(_GZIP) else BytesIO(data)


def _header(head: bytes) -> Any:
    """Read a header, as nibabel mends it."""
    if b"ni1\0" in head[344:348] or b"ni2\0" in head[4:8]:
        raise Unreadable("a NIfTI header without its image (.hdr): convert the pair to one .nii file")
    kind = nibabel.Nifti2Header if head[4:8] == b"n+2\0" else nibabel.Nifti1Header
    header = kind(head[: kind.template_dtype.itemsize], check=False)
    _check_start(header)
    _check_type(header)
    if any(size < 0 for size in header.get_data_shape()):
        raise Unreadable("the header declares negative sizes (dim): damaged; copy the file again from its source")
    _check_spacing(header)
    header.check_fix()
    return header


def _check_start(header: Any) -> None:
    """Check where the voxels begin, which NIfTI-1 stores as a float."""
    first, start = header.single_vox_offset, float(header["vox_offset"])
    if not first <= start <= first + _EXTENSIONS or not start.is_integer():
        raise Unreadable(
            f"vox_offset is {start:g}, and must be a whole number from {first} to {first + _EXTENSIONS}: damaged; copy "
            "the file again from its source"
        )


def _check_type(header: Any) -> None:
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nibabel.spatialimages.HeaderDataError):
        raise Unreadable(
            f"NIfTI has no datatype {int(header['datatype'])}: damaged; copy the file again from its source"
        ) from None
    if dtype.kind not in "buif":
        name = "colours" if dtype.names else dtype.type.__name__
        raise Unreadable(
            f"voxels of type {name} (datatype {int(header['datatype'])}): convert them to integers or floats"
        )


def _check_spacing(header: Any) -> None:
    """Check the spacing where the header claims a geometry: nibabel would take 1 for a spacing of 0."""
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        return
    for axis in (1, 2) if _is_flat(header) else (1, 2, 3):
        spacing = float(header["pixdim"][axis]) * _millimetres(header)
        if not _SMALLEST <= abs(spacing) <= _FURTHEST:
            raise Unreadable(f"pixdim[{axis}] is {spacing:g} mm: mend the header, or convert the volume again")


def _affine(header: Any) -> NDArray[np.float64] | None:
    """Find the affine of the sform, or of the qform: index (i, j, k) to RAS mm; None if the header has neither."""
    if header["sform_code"] > 0:
        fields, affine = "srow_x, srow_y, srow_z (sform)", header.get_sform()
    elif header["qform_code"] > 0:
        fields = "quatern_b, quatern_c, quatern_d, qoffset (qform)"
        try:
            affine = header.get_qform()
        except ValueError:  # no rotation
            affine = np.full((4, 4), np.nan)
    else:
        return None
    affine = affine.astype(np.float64)
    affine[:3] *= _millimetres(header)
    axes = affine[:3, :3]
    if _is_flat(header) and not axes[:, 2].any():
        normal = np.cross(axes[:, 0], axes[:, 1])
        axes[:, 2] = normal / (np.linalg.norm(normal) or 1)
    lengths = np.linalg.norm(axes, axis=0)
    is_sane = (np.abs(affine) <= _FURTHEST).all() and lengths.min() >= _SMALLEST
    if not is_sane or abs(np.linalg.det(axes / lengths)) < _SINGULAR:
        raise Unreadable(f"{fields} place no volume in the patient: mend the header, or convert the volume again")
    return affine


def _millimetres(header: Any) -> float:
    unit = int(header["xyzt_units"]) % 8
    if unit not in _MILLIMETRES:
        raise Unreadable(
            f"xyzt_units has the unit of length {unit}, which NIfTI does not know: set it to 2 (mm), 3 (µm) or 1 (m)"
        )
    return _MILLIMETRES[unit]


def _is_flat(header: Any) -> bool:
    """Tell whether a header is of a picture, which needs no third axis."""
    return math.prod(header.get_data_shape()[2:3]) == 1


def _end(header: Any) -> int:
    """Tell how many bytes a file has up to its last voxel."""
    return int(header["vox_offset"]) + math.prod(header.get_data_shape()) * int(header.get_data_dtype().itemsize)


def _of_slice(affine: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Move the origin of an affine of index (z, y, x) to a slice, counted from 0."""
    moved = affine.copy()
    moved[:, 3] += number * affine[:, 0]
    return moved


def _voxels(header: Any, stream: gzip.GzipFile | BytesIO, start: int, count: int) -> NDArray[np.float32]:
    """Read `count` voxels from the one at `start` on, in the order of the file, scaled."""
    dtype = header.get_data_dtype()
    slope, intercept = _scaling(header)
    begin = int(header["vox_offset"]) + start * dtype.itemsize
    stream.seek(begin)
    voxels = np.empty(count, np.float32)
    for first in range(0, count, _AT_ONCE):
        wanted = min(_AT_ONCE, count - first) * dtype.itemsize
        data = stream.read(wanted)
        if len(data) < wanted:
            check_length(_end(header), stream.tell())
        voxels[first : first + _AT_ONCE] = apply_read_scaling(np.frombuffer(data, dtype), slope, intercept)
    return voxels


def _scaling(header: Any) -> tuple[np.float64 | None, np.float64 | None]:
    try:
        slope, intercept = header.get_slope_inter()
    except nibabel.spatialimages.HeaderDataError:
        raise Unreadable("scl_inter is no finite number, although scl_slope is: mend the header") from None
    return (None, None) if slope is None else (np.float64(slope), np.float64(intercept))
