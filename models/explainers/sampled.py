"""Explainers that estimate the values of segments from coalitions that are drawn."""

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.explainers.base import Attribution
from models.explainers.rounds import Tolerance, in_rounds
from models.explainers.supervoxels import SegmentExplainer, Supervoxels
from models.questions import Batch, Questions


class Estimate(NamedTuple):
    """Values of the segments and fields of an image, and their standard errors, both ``(target, player)``."""

    values: Tensor
    errors: Tensor

    @property
    def relative_error(self) -> Tensor:
        """The standard error of all values together, as a share of their norm, ``(target,)``."""
        error = self.errors.norm(dim=1)
        return (error / self.values.norm(dim=1)).where(error != 0, 0.0)


class SampledSegments(SegmentExplainer):
    """An explainer of segments that asks about draws, no more than it has to."""

    tolerance: Tolerance = None

    def estimate(
        self,
        batch: Batch,
        pieces: Supervoxels,
        shown: Sequence[Tensor],
        at_once: Sequence[int],
        fit: Callable[[int, Tensor], Estimate],
    ) -> Generator[Questions, None, Attribution]:
        """Ask about the coalitions ``(question, player)`` of each image, and estimate its values.

        Parameters
        ----------
        at_once
            Number of questions of each image that are drawn together.
        fit
            A function from the number of an image, and the scores ``(target, question)`` of its first questions.
        """
        scores = [torch.zeros(len(batch.answers), 0, dtype=torch.float64) for _ in shown]
        made: dict[int, Estimate] = {}

        def ask(among: Tensor, draws: slice) -> Generator[Questions, None, None]:
            numbers = among.tolist()
            rows = [shown[image][draws.start * at_once[image] : draws.stop * at_once[image]] for image in numbers]
            answered = yield from self.answers(batch, pieces, rows, among=among)
            for image, own in zip(numbers, answered, strict=True):
                scores[image] = torch.cat([scores[image], own], dim=1)
                made[image] = fit(image, scores[image])

        def error() -> Tensor:
            errors = torch.stack([made[image].relative_error for image in range(len(shown))], dim=1)
            return errors.to(batch.images.device)

        # Of a single player there is nothing to ask, but its value is known from a round.
        most = max(1, *(-(-len(own) // max(size, 1)) for own, size in zip(shown, at_once, strict=True)))
        inexact = yield from in_rounds(batch, most, self.tolerance, ask, error)
        return pieces.attribution([made[image].values for image in range(len(shown))])._replace(inexact=inexact)
