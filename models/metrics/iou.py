from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from models.metrics.base import Evaluated, MapMetric, positive
from models.metrics.similarity import min_max


class IoU(MapMetric):
    """Intersection over union of mask and map, cut as CheXlocalize does (Saporta et al. 2022,
    doi:10.1038/s42256-022-00536-x, Methods).

    ``|A & G| / |A | G|``. For `A` the positive part of the map, which is on the image's grid, is taken to [0, 1] and to
    256 levels, cut above Otsu's threshold, and the contours are filled. In [0, 1]; higher is better. NaN where the
    mask is empty and for a constant map, which has no threshold.
    """

    family = "plausibility"
    better = "higher"
    range = (0.0, 1.0)
    needs_masks = True
    name: Literal["iou"] = "iou"

    def value(self, evaluated: Evaluated) -> Tensor:
        maps = min_max(positive(evaluated.maps))
        found = torch.full((len(maps),), torch.nan, dtype=torch.float64)
        pairs = zip(maps.cpu().numpy(), evaluated.truth.masks.cpu().numpy(), strict=True)
        for row, (scaled, mask) in enumerate(pairs):
            if mask.any() and np.isfinite(scaled).all():
                area = segment(scaled)
                found[row] = (area & mask).sum() / (area | mask).sum()
        return found


def segment(scaled: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Cut a map in [0, 1] above Otsu's threshold (1979, doi:10.1109/TSMC.1979.4310076) and fill what is enclosed."""
    levels = (255 * scaled).astype(np.uint8)
    return ndimage.binary_fill_holes(levels > threshold_otsu(levels))
