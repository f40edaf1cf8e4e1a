"""Gradient ascent on a picture: a score rises from step to step, while the values stay within a range."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""A function from pictures ``(1, channel, *space)`` to one number."""

_HALVINGS = 10


@dataclass(frozen=True)
class Ascent:
    """Steepest ascent in a space of smooth pictures.

    A step is the gradient whose Fourier coefficients are multiplied by ``a(f)``, which is steepest ascent for the norm
    ``sum_f |x(f)|^2 / a(f)``. It lies halfway between steepest ascent in pixels, ``a = 1``, and in the decorrelated
    parametrisation of Olah, Mordvintsev and Schubert (2017, doi:10.23915/distill.00007), whose coefficients are divided
    by ``a(f)`` and which multiplies by ``a(f)^2``: in that one, fine textures hardly grow. Where a value would
    leave its range, the gradient is 0 (two-metric
    projection, Bertsekas 1982, doi:10.1137/0320018). A step that does not raise the score is halved, at most 10 times,
    and left out then, so that the score never falls; the next step is tried at twice the length of the last.

    Parameters
    ----------
    low, high
        The range of the values, ``(channel, 1, ...)``.
    amplitude
        ``a(f)``, such as of `falling`; all 1: neighbouring values have nothing to do with each other.
    length
        The largest root mean square of a step, as a share of the range.
    """

    low: Tensor
    high: Tensor
    amplitude: Tensor
    length: float

    def climb(self, score: Score, start: Tensor, steps: int) -> Iterator[tuple[Tensor, float]]:
        """Yield ``(channel, *space)`` and its score: of the start within the range, and after each step."""
        picture = start.clamp(self.low, self.high)
        reached, gradient = _asked(score, picture)
        step, length = self._step(picture, gradient()), self.length
        yield picture, float(reached)
        for _ in range(steps):
            for _ in range(_HALVINGS + 1):
                tried = (picture + length * step).clamp(self.low, self.high)
                found, gradient = _asked(score, tried)
                if found > reached:
                    picture, reached, step = tried, found, self._step(tried, gradient())
                    break
                length /= 2
            length = min(2 * length, self.length)
            yield picture, float(reached)

    def _step(self, picture: Tensor, gradient: Tensor) -> Tensor:
        """Find the direction of a step, whose root mean square is the range."""
        axes, range_ = tuple(range(1, picture.ndim)), self.high - self.low
        leaves = ((picture >= self.high) & (gradient > 0)) | ((picture <= self.low) & (gradient < 0))
        spectrum = torch.fft.rfftn((range_ * gradient).masked_fill(leaves, 0), dim=axes) * self.amplitude
        step = torch.fft.irfftn(spectrum, picture.shape[1:], dim=axes).masked_fill(leaves, 0)
        size = step.square().mean().sqrt()
        return range_ * step / size if size > 0 else torch.zeros_like(step)


def falling(space: Sequence[int]) -> Tensor:
    """Compute ``a(f) = 1 / max(f, 1 / n)`` at the coefficients of a picture, which is that of natural images.

    ``f`` is in cycles a place, and ``n`` the longest side.
    """
    axes = [*map(torch.fft.fftfreq, space[:-1]), torch.fft.rfftfreq(space[-1])]
    frequency = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    return 1 / frequency.clamp_min(1 / max(space))


def _asked(score: Score, picture: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """Compute the score of a picture, and say how its gradient is found if it is wanted."""
    with torch.enable_grad():
        asked = picture.detach().requires_grad_()
        found = score(asked[None]).sum()
    return found.detach(), lambda: torch.autograd.grad(found, asked)[0]
