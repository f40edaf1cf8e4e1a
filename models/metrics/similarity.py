"""The similarity of two maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.explainers.noise import generator
from models.metrics.ranking import spearman

_WINDOW = 7


def min_max(maps: Tensor) -> Tensor:
    """Take each of ``(map, *space)`` to [0, 1]; NaN where a map is constant."""
    flat = maps.flatten(1)
    low, high = (end.view(-1, *[1] * (maps.ndim - 1)) for end in (flat.amin(1), flat.amax(1)))
    return (maps - low) / (high - low)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of pairs of maps (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    Each map is taken to [0, 1] first, and the range of the data is 1 for all maps: with a range from the maps, the
    constants of the formula would change from pair to pair. Windows are uniform, have 7 places a side, and do not stand
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
    """Compute SSIM and Spearman's rank correlation of maps, ``(image, target, explainer)`` each.

    Explainers come one by one, so that the memory is that of a few maps an image.
    """
    head = one.shape[:3]
    found = []
    for index in range(head[2]):
        pair = [part[:, :, index].flatten(0, 1) for part in (one, other)]
        flat = [part.flatten(1) for part in pair]
        found.append(torch.stack([ssim(*pair).double(), spearman(*flat)]))
    stacked = torch.stack(found, dim=-1).view(2, *head)
    return stacked[0], stacked[1]


def mean_similarities(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Average the similarities of ``(image, target, explainer, *space)`` to the same maps by several networks."""
    found = [similarities(maps, other.to(maps)) for other in others]
    ssim, spearman = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
    return ssim, spearman


def similarities_of_noise(ids: Sequence[str], maps: Tensor, magnitude: bool = False) -> tuple[Tensor, Tensor]:
    """Compute the similarities, ``(image, 1, 1)``, of pairs of maps of noise, drawn by the images' names."""

    def noise(sample: int) -> Tensor:
        drawn = [torch.randn(maps.shape[3:], generator=generator(name, "level", sample)) for name in ids]
        stacked = torch.stack(drawn)[:, None, None].to(maps)
        return stacked.abs() if magnitude else stacked

    return similarities(noise(0), noise(1))
