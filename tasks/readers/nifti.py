"""NIfTI-1 and NIfTI-2, plain or gzipped."""

import gzip

import nibabel
import numpy as np

from tasks.readers.base import Decoded, Unreadable


def is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def read(data: bytes) -> Decoded:
    """Read ``(i, j[, k[, channel]])`` as ``(channel, [k,] j, i)``; scaled, with the sform or qform affine if any."""
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    if b"ni1\0" in data[344:348] or b"ni2\0" in data[4:8]:
        raise Unreadable("a NIfTI header without its image (.hdr): convert the pair to one .nii file")
    kind = nibabel.Nifti2Image if data[4:8] == b"n+2\0" else nibabel.Nifti1Image
    image = kind.from_bytes(data)
    voxels = np.asarray(image.dataobj)
    if voxels.dtype.kind not in "buif":
        raise Unreadable(f"voxels of type {voxels.dtype}: convert them to integers or floats")
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if not 2 <= voxels.ndim <= 4:
        raise Unreadable(f"shape {voxels.shape}: a picture, a volume, or a volume with channels last is needed")
    voxels = np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else voxels[None]
    pixels = voxels.transpose(0, *range(voxels.ndim - 1, 0, -1)).astype(np.float32)
    is_placed = image.header["sform_code"] > 0 or image.header["qform_code"] > 0
    affine = image.affine[:, [2, 1, 0, 3]].astype(np.float64) if is_placed else None
    return Decoded(np.ascontiguousarray(pixels), affine)
