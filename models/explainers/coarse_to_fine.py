"""Coarse to fine: an image is asked about some windows, then about others where the drops around are large."""

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from models.explainers.window_grid import WindowGrid
from models.questions import Batch, Questions
from models.targets import NO_CLASS

_ROUNDS = 8

AskWindows = Callable[[Tensor, Tensor], Generator[Questions, None, Tensor]]
"""A function that asks the images ``(image,)`` about windows ``(image, step)``; it returns their drops, ``(target,
image, step)``."""


def coarse_to_fine(
    batch: Batch, grid: WindowGrid, tolerance: float, ask: AskWindows
) -> Generator[Questions, None, Tensor]:
    """Ask about the coarse windows, and in rounds of an eighth about others, until maps are within the tolerance.

    Returns
    -------
    Tensor
        ``(target, image, window)`` float64, the drops that were asked about, and between them interpolated ones.
    """
    there = batch.chosen.classes.T != NO_CLASS
    among = torch.arange(len(batch.images), device=batch.images.device)
    asked = torch.zeros(len(among), len(grid.corners), dtype=torch.bool, device=among.device)
    drops = torch.zeros(len(batch.answers), *asked.shape, dtype=torch.float64, device=among.device)
    values = torch.zeros_like(drops)
    windows = grid.coarse.to(among.device).nonzero().flatten().expand(len(among), -1)
    while len(among):
        found = yield from ask(among, windows)
        drops[:, among] = drops[:, among].scatter(2, windows.expand_as(found), found)
        before, was_asked = values, asked.clone()
        asked[among] = asked[among].scatter(1, windows, True)
        values = grid.interpolated(drops, asked)
        errors = _relative_error(grid, before, values, was_asked, asked)
        is_open = (~(errors <= tolerance) & there).any(0) & ~asked.all(1)
        among = among[is_open[among]]
        windows = _largest(_expected(grid, values, there)[among], asked[among])
    return values


def _relative_error(grid: WindowGrid, before: Tensor, values: Tensor, was_asked: Tensor, asked: Tensor) -> Tensor:
    """Estimate the error that is left in the map by the change that a round made: ``(target, image)``.

    The squares of both are as what is expected of the windows that are left, and was of those of the round. Before the
    first round nothing was expected, so that the error is not known.
    """
    of_round = (grid.expected(before) * (asked & ~was_asked)).sum(-1)
    of_left = (grid.expected(values) * ~asked).sum(-1)
    return grid.norm(values - before) / grid.norm(values) * (of_left / of_round).sqrt()


def _expected(grid: WindowGrid, values: Tensor, there: Tensor) -> Tensor:
    """Sum over targets what is expected of each window relative to the map, ``(image, window)``."""
    relative = grid.expected(values) / grid.norm(values).square()[..., None]
    return relative.where(there[..., None], 0.0).nan_to_num(nan=0.0).sum(0)


def _largest(expected: Tensor, asked: Tensor) -> Tensor:
    """Choose an eighth of the windows, of those that were not asked about, by the largest value: ``(image, step)``.

    Images that are asked in the same round have been asked about as many windows.
    """
    count = -(-asked.shape[1] // _ROUNDS)
    left = asked.shape[1] - int(asked.sum(1).max()) if len(asked) else 0
    order = torch.argsort(expected.masked_fill(asked, -1.0), dim=1, descending=True, stable=True)
    return order[:, : min(count, left)]
