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

AskRound = Callable[[Tensor, slice], Generator[Questions, None, Tensor]]
"""A function that asks some draws about the images ``(image,)``; it returns the relative standard errors of the maps of
all images, ``(target, image)``."""


def in_rounds(
    batch: Batch, most: int, tolerance: float | None, ask: AskRound
) -> Generator[Questions, None, Tensor | None]:
    """Ask at most `most` draws: all at once, or in eighths until the error of each image is within `tolerance`.

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
    stops = sorted({-(-most * part // _ROUNDS) for part in range(_ROUNDS + 1)})
    for start, stop in pairwise(stops):
        errors = yield from ask(among, slice(start, stop))
        inexact = ~(errors <= tolerance) & there
        among = among[inexact[:, among].any(0)]
        if not len(among):
            break
    return inexact
