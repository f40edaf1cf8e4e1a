"""Orders of places, and how places of equal value are ordered."""

import torch
from torch import Tensor

from models.draws import Draws
from models.questions import Batch
from models.sorting import stable_order

_ROUNDING = 1e-10


def drawn_order(batch: Batch, image: Tensor, values: Tensor) -> Tensor:
    """Rank the features, 0 for the largest: ``(image, feature)`` from values of the same shape.

    Equal values, such as the zeros of a rectified map, are ranked at random, by a draw from the image's name: an order
    from left to right would favour the places at one end. So a constant map is ranked at random.
    """
    count = values.shape[1]
    drawn = Draws("order", batch.ids, values.device).order(count, image)
    order = drawn.gather(1, stable_order(values.gather(1, drawn), descending=True))
    return torch.empty_like(order).scatter_(1, order, torch.arange(count, device=order.device).expand_as(order))


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Compute Spearman's rank correlation over the last axis; NaN where either is constant or not finite."""
    return pearson(average_ranks(one), average_ranks(other))


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """Compute Pearson's correlation over the last axis; NaN where either is nearly constant, or not finite."""
    centred = []
    for part in (one.double(), other.double()):
        deviation = part - part.mean(-1, keepdim=True)
        norm = deviation.norm(dim=-1, keepdim=True)
        centred.append(deviation / norm.where(norm > _ROUNDING * part.norm(dim=-1, keepdim=True), torch.nan))
    return (centred[0] * centred[1]).sum(-1).clamp(-1, 1)


def average_ranks(values: Tensor) -> Tensor:
    """Rank from 1 over the last axis, equal values by their mean rank; NaN for all where any value is not finite."""
    order = stable_order(values)
    ordered = values.gather(-1, order)
    first, last = ends_of_ties(ordered)
    ranks = torch.empty_like(values, dtype=torch.float64).scatter_(-1, order, (first + last).double() / 2 + 1)
    return ranks.where(values.isfinite().all(-1, keepdim=True), torch.nan)


def ends_of_ties(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Find the first and last place of the run of equal values that each place of the last axis belongs to."""
    count = ordered.shape[-1]
    place = torch.arange(count, device=ordered.device).expand(ordered.shape)
    changes = ordered[..., 1:] != ordered[..., :-1]
    edge = torch.ones_like(ordered[..., :1], dtype=torch.bool)
    first = place.where(torch.cat([edge, changes], -1), 0).cummax(-1).values
    last = place.where(torch.cat([changes, edge], -1), count).flip(-1).cummin(-1).values.flip(-1)
    return first, last
