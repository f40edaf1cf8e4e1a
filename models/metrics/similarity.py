"""The similarity of two maps."""

from collections.abc import Iterable

import torch
from torch import Tensor

from models.draws import Draws
from models.metrics.base import Explained
from models.metrics.ranking import average_ranks, pearson

_WINDOW = 7
_LIGHT, _CONTRAST = 0.01**2, 0.03**2


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
    first, second = min_max(one), min_max(other)
    parts = torch.stack([first, second, first * first, second * second, first * second])
    mean, against, squared, squared_against, product = _window_means(parts)
    both, squares = mean * against, mean * mean + against * against
    light = (2 * both + _LIGHT) / (squares + _LIGHT)
    structure = (2 * (product - both) + _CONTRAST) / (squared + squared_against - squares + _CONTRAST)
    return (light * structure).flatten(1).mean(1)


def _window_means(maps: Tensor) -> Tensor:
    """Average ``(part, map, *space)`` over each window. A convolution takes ten times longer."""
    for axis in range(2, maps.ndim):
        side = min(_WINDOW, maps.shape[axis])
        count = maps.shape[axis] - side + 1
        total = maps.narrow(axis, 0, count).clone()
        for start in range(1, side):
            total.add_(maps.narrow(axis, start, count))
        maps = total.div_(side)
    return maps


def similarities(maps: Tensor, others: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute SSIM and Spearman's rank correlation of maps to others, ``(image, target, explainer, other)`` each.

    The others are taken one by one, and the explainers of each, so that the memory is that of a few maps an image
    beside the ranks of `maps`.

    Parameters
    ----------
    maps, others
        ``(image, target, explainer, *space)``, and as many of each of the others.
    """
    head = maps.shape[:3]
    own = maps.flatten(0, 1).unbind(1)
    # Ranks are exact up to 2**23 places, and correlations to seven digits beyond.
    ranks = [average_ranks(part.flatten(1)).float() for part in own]
    found = []
    for other in others:
        pairs = zip(own, ranks, other.to(maps).flatten(0, 1).unbind(1), strict=True)
        alike = [(ssim(one, two).double(), pearson(rank, average_ranks(two.flatten(1)))) for one, rank, two in pairs]
        found.append(torch.stack([torch.stack(both) for both in alike], dim=-1))
    stacked = torch.stack(found, dim=-1).unflatten(1, head[:2])
    return stacked[0], stacked[1]


def similarities_of_noise(explained: Explained, magnitude: bool = False) -> tuple[Tensor, Tensor]:
    """Compute the similarities, ``(image, 1, 1)``, of pairs of maps of noise, drawn by the images' names."""

    def compare() -> tuple[Tensor, Tensor]:
        maps = explained.maps
        draws = Draws("level", explained.batch.ids, maps.device)
        pair = [draws.gaussian((1, 1, *maps.shape[3:]), sample=sample).to(maps) for sample in range(2)]
        one, other = (part.abs() for part in pair) if magnitude else pair
        ssim, spearman = similarities(one, [other])
        return ssim[..., 0], spearman[..., 0]

    return explained.once(("similarities of noise", magnitude), compare)
