"""Rounds: questions of an estimate are asked in parts, and no more of an image whose map is exact enough."""

from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from models.questions import Batch, Questions
from models.targets import NO_CLASS

_ROUNDS = 8

Tolerance = Annotated[
    float | None,
    Field(gt=0, description="Relative standard error of the map at which no more is asked; none: all is asked"),
]

AskRound = Callable[[Tensor, slice], Generator[Questions, None, None]]
"""A function that asks some draws about the images ``(image,)``."""


def relative_error(one: Tensor, other: Tensor) -> Tensor:
    """Estimate the relative standard error of the mean of two independent maps ``(..., place)``, of one distribution.

    ``(|one - other| / 2) / sqrt(one . other)``: the difference is all noise, and the product has none in its mean,
    where the norm of either map would grow by its noise. Infinite where the product is not positive, 0 of equal maps.
    """
    error, size = (one - other).norm(dim=-1) / 2, (one * other).sum(-1).clamp_min(0).sqrt()
    return (error / size).where(error != 0, 0.0)


def in_rounds(
    batch: Batch,
    most: int,
    tolerance: float | None,
    ask: AskRound,
    error: Callable[[], Tensor],
    size: int | None = None,
) -> Generator[Questions, None, Tensor | None]:
    """Ask at most `most` draws: all at once, or in rounds until the error of each image is within `tolerance`.

    A round is of `size` draws, or of an eighth of all. `error` estimates the relative standard errors of the maps of
    all images by what was asked so far, ``(target, image)``.

    Returns
    -------
    Tensor or None
        ``(target, image)`` bool, whether the error stayed larger; None without a tolerance.
    """
    among = torch.arange(len(batch.images), device=batch.images.device)
    if tolerance is None:
        yield from ask(among, slice(0, most))
        return None
    inexact = there = batch.chosen.classes.T != NO_CLASS
    eighths = {-(-most * part // _ROUNDS) for part in range(_ROUNDS + 1)}
    stops = sorted(eighths if size is None else {*range(0, most, size), most})
    for start, stop in pairwise(stops):
        yield from ask(among, slice(start, stop))
        inexact = ~(error() <= tolerance) & there
        among = among[inexact[:, among].any(0)]
        if not len(among):
            break
    return inexact
