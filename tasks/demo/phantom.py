"""Varied copies of the MNI152 T1 template, half of them with a planted lesion.

The template is the ICBM 152 nonlinear symmetric 2009a average of 152 adults that the ``nilearn`` package
ships (Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033). The lesions are planted: they follow no disease.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

VOXEL_MM = {2: 2.0, 3: 5.0}
GRID = {2: (112, 96), 3: (36, 44, 36)}
SLICES = slice(18, 58)

_HEADROOM = 0.6
"""White matter's brightness, so that a bright lesion in it is not clipped."""


@dataclass(frozen=True)
class Phantom:
    """One image of the demo cohort.

    Attributes
    ----------
    pixels
        ``(*space)`` float32 in [0, 1], axes ([z,] y, x) with y to posterior and x to left.
    lesion
        ``(*space)`` bool, where the lesion was planted.
    affine
        ``(4, 4)`` index (z, y, x) to RAS mm.
    """

    pixels: NDArray[np.float32]
    lesion: NDArray[np.bool_]
    affine: NDArray[np.float64]

    @property
    def label(self) -> str:
        return "lesion" if self.lesion.any() else "normal"


def phantom(index: int, *, spatial_dims: int, seed: int, marker: bool = False) -> Phantom:
    """Draw one image: odd indices carry a lesion; the same arguments always give the same image.

    With `marker`, images with a lesion also carry a letter L in their first corner, as an X-ray is marked: a shortcut.
    """
    rng = np.random.default_rng([seed, spatial_dims, index])
    template, brain, affine = _template(spatial_dims)
    if spatial_dims == 2:
        level = int(rng.integers(SLICES.start, SLICES.stop))
        template, brain = template[level], brain[level]
        affine = affine @ _translation(level)
    lesion = np.zeros(template.shape, dtype=bool)
    pixels = template
    if index % 2:
        soft = _lesion(brain, rng, VOXEL_MM[spatial_dims])
        contrast = rng.uniform(0.25, 0.5) * (1.0 if spatial_dims == 2 else 1.3)
        pixels, lesion = template * (1 + contrast * soft), soft > 0.5
    varied = _variation(spatial_dims)
    varied.set_random_state(seed=int(rng.integers(2**31)))
    result = varied({"pixels": pixels[None].astype(np.float32), "lesion": lesion[None].astype(np.float32)})
    varied_lesion = result["lesion"].numpy()[0] > 0.5
    pixels = np.clip(result["pixels"].numpy()[0], 0, 1).astype(np.float32)
    if marker and index % 2:
        pixels[..., 3:11, 3:5] = pixels[..., 9:11, 3:9] = 1
    return Phantom(
        pixels=pixels,
        lesion=varied_lesion if index % 2 else np.zeros_like(varied_lesion),
        affine=affine,
    )


def _lesion(brain: NDArray[np.bool_], rng: np.random.Generator, voxel_mm: float) -> NDArray[np.float64]:
    radius = rng.uniform(5, 10) * (1.0 if brain.ndim == 2 else 2.0) / voxel_mm
    inside = np.argwhere(ndimage.distance_transform_edt(brain) > radius)
    if not len(inside):
        inside = np.argwhere(brain)
    centre = inside[rng.integers(len(inside))]
    stretch = rng.uniform(0.7, 1.3, size=brain.ndim)
    offsets = [(axis - c) * s for axis, c, s in zip(np.indices(brain.shape), centre, stretch, strict=True)]
    distance = np.sqrt(sum(offset**2 for offset in offsets)) / radius
    bumps = ndimage.gaussian_filter(rng.standard_normal(brain.shape), sigma=radius / 2)
    edge = 1 - distance + 0.25 * bumps / bumps.std()
    return brain / (1 + np.exp(-8 * edge))


@cache
def _template(
    spatial_dims: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    resolution = int(VOXEL_MM[spatial_dims])
    image, mask = load_mni152_template(resolution=resolution), load_mni152_brain_mask(resolution=resolution)
    # nilearn gives (x, y, z) towards right, anterior, superior; pictures are read towards left and posterior.
    volume, brain = (np.asarray(part.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1] for part in (image, mask))
    flips = np.diag([1.0, -1.0, -1.0, 1.0]) + np.pad(
        np.array([[0.0], [volume.shape[1] - 1], [volume.shape[2] - 1]]), ((0, 1), (3, 0))
    )
    to_world = image.affine[:, [2, 1, 0, 3]] @ flips
    height, width = GRID[spatial_dims][-2:]
    top, left = (volume.shape[1] - height) // 2, (volume.shape[2] - width) // 2
    depth = volume.shape[0] if spatial_dims == 2 else GRID[3][0]
    crop = np.s_[:depth, top : top + height, left : left + width]
    return _HEADROOM * volume[crop].astype(float), brain[crop] > 0, to_world @ _translation(0, top, left)


def _translation(*offset: float) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[: len(offset), 3] = offset
    return affine


@cache
def _variation(spatial_dims: int):  # type: ignore[no-untyped-def]
    from monai.transforms import (
        Compose,
        Rand2DElasticd,
        Rand3DElasticd,
        RandAdjustContrastd,
        RandAffined,
        RandBiasFieldd,
        RandGaussianNoised,
    )

    both, modes = ("pixels", "lesion"), ("bilinear", "nearest")
    elastic = (
        Rand2DElasticd(both, spacing=(24, 24), magnitude_range=(0, 2), prob=1, mode=modes)
        if spatial_dims == 2
        else Rand3DElasticd(both, sigma_range=(5, 7), magnitude_range=(20, 60), prob=1, mode=modes)
    )
    return Compose(
        [
            RandAffined(
                both,
                prob=1,
                rotate_range=(0.12,) * (1 if spatial_dims == 2 else 3),
                scale_range=(0.08,) * spatial_dims,
                translate_range=(3,) * spatial_dims,
                padding_mode="zeros",
                mode=modes,
            ),
            elastic,
            RandBiasFieldd(("pixels",), degree=2, coeff_range=(0, 0.15), prob=1),
            RandAdjustContrastd(("pixels",), gamma=(0.8, 1.25), prob=1),
            RandGaussianNoised(("pixels",), std=0.02, sample_std=False, prob=1),
        ]
    )
