"""How alike two maps are."""

import torch
from torch import Tensor

from models.metrics.ranking import spearman

_WINDOW = 7


def min_max(maps: Tensor) -> Tensor:
    """Take each of ``(map, *space)`` to [0, 1]; NaN where a map is constant."""
    flat = maps.flatten(1)
    low, high = (end.view(-1, *[1] * (maps.ndim - 1)) for end in (flat.amin(1), flat.amax(1)))
    return (maps - low) / (high - low)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of pairs of maps (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    Each map is taken to [0, 1] first, and the range of the data is 1 whatever a map holds: taken from the maps, the
    constants of the formula would change from pair to pair. Windows are of 7 places a side, uniform, and do not stand
    over the edge.

    Parameters
    ----------
    one, other
        ``(map, *space)``.

    Returns
    -------
    Tensor
        ``(map,)`` in [-1, 1]; NaN where a map is constant or not finite.
    """
    from monai.metrics.regression import compute_ssim_and_cs

    dims = one.ndim - 1
    window = [min(_WINDOW, side) for side in one.shape[1:]]
    scaled, against = (min_max(part)[:, None] for part in (one, other))
    found, _ = compute_ssim_and_cs(scaled, against, dims, window, window, data_range=1.0, kernel_type="uniform")
    return found.flatten(1).mean(1)


def similarities(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and Spearman's rank correlation of maps, ``(image, target, explainer)`` each.

    Taken explainer by explainer, so that memory is that of a few maps an image.
    """
    head = one.shape[:3]
    found = []
    for index in range(head[2]):
        pair = [part[:, :, index].flatten(0, 1) for part in (one, other)]
        flat = [part.flatten(1) for part in pair]
        found.append(torch.stack([ssim(*pair).double(), spearman(*flat)]))
    stacked = torch.stack(found, dim=-1).view(2, *head)
    return stacked[0], stacked[1]
