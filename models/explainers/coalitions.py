"""Coalitions of segments and fields: what is worked out of the scores of those that were asked about."""

from dataclasses import dataclass
from functools import cache
from math import exp, log

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

# Over the demo's networks, from a quarter of the players to all of them, the error of values hardly depends on the
# length; noise keeps the inverse well conditioned.
_LENGTH, _NOISE = 0.5, 0.01


@dataclass(frozen=True, eq=False)
class Learnt:
    """A game that was learnt from the scores of some coalitions; it knows that of every coalition, and their sums.

    Attributes
    ----------
    shown
        ``(question, player)`` bool, the coalitions that it was learnt from.
    weights
        ``(target, question)``: the score of `z` is ``sum_q weights[q] rho^|z - z_q|``, with `rho` and the number of
        players in which two coalitions differ.
    left_out
        ``(target, question)``, by how much the score of a coalition differs from what all others say of it.
    """

    shown: Tensor
    weights: Tensor
    left_out: Tensor

    @property
    def players(self) -> int:
        return self.shown.shape[1]

    @property
    def rho(self) -> float:
        return exp(-1 / (_LENGTH * self.players))

    def shapley(self) -> Tensor:
        """Compute the Shapley values, ``(target, player)``.

        A coalition where each player is with probability `t` gains ``(1 - rho) u^(a - 1) v^(n - a)`` by one of the `a`
        players of ``z_q``, ``u = t + rho (1 - t)``, ``v = rho t + 1 - t``, and loses as much by another; the values are
        the integral over `t` (Owen 1972, doi:10.1287/mnsc.18.5.64).
        """
        nodes, weights = np.polynomial.legendre.leggauss(self.players // 2 + 1)  # exact
        t, own = torch.as_tensor((nodes + 1) / 2), torch.arange(self.players + 1)[:, None]
        u, v = t + self.rho * (1 - t), self.rho * t + 1 - t
        gain = (1 - self.rho) * torch.as_tensor(weights / 2)
        with_own = (gain * u ** (own - 1) * v ** (self.players - own)).sum(1)
        with_other = -(gain * u**own * v ** (self.players - own - 1)).sum(1)
        return self._by_player(with_own, with_other)

    def moments(self, by_size: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Compute the mean over all coalitions of weight by score, and of the same times whether a player is in one.

        Parameters
        ----------
        by_size
            The weight of a coalition of so many players.

        Returns
        -------
        tuple
            ``(target,)`` and ``(target, player)``.
        """
        count, (own, other) = self.players, ((self.rho, 1.0), (1.0, self.rho))
        all_of, with_own, with_other = np.zeros((3, count + 1))
        for size in range(count + 1):
            # The coefficient of t^s is the mean of the kernel times whether a coalition has s players.
            rest = count - size
            all_of[size] = np.convolve(_power(own, size), _power(other, rest)) @ by_size
            if size:
                with_own[size] = np.convolve(_power(own, size - 1), _power(other, rest)) @ by_size[1:] / 2
            if rest:
                with_other[size] = np.convolve(_power(own, size), _power(other, rest - 1)) @ by_size[1:] * self.rho / 2
        means = self.weights @ torch.as_tensor(all_of)[self.shown.sum(1)]
        return means, self._by_player(torch.as_tensor(with_own), torch.as_tensor(with_other))

    def _by_player(self, with_own: Tensor, with_other: Tensor) -> Tensor:
        """Add up values by the size of the coalition that they come from, and whether a player is one of its own."""
        size, shown = self.shown.sum(1), self.shown.double()
        return (self.weights * with_own[size]) @ shown + (self.weights * with_other[size]) @ (1 - shown)


def learn(shown: Tensor, scores: Tensor) -> Learnt:
    """Learn ``(target, question)`` by a Gaussian process (Rasmussen and Williams 2006, eq. 2.25 and 5.12).

    Coalitions ``(question, player)`` are alike by ``exp(-d / l)``: `d` players differ, and `l` is half of all players.
    """
    signs = 2 * shown.double() - 1
    differ = (shown.shape[1] - signs @ signs.T) / 2
    kernel = torch.exp(-differ / (_LENGTH * shown.shape[1]))
    kernel.diagonal().add_(_NOISE)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
    weights = scores @ inverse
    return Learnt(shown, weights, weights / inverse.diagonal())


def standard_errors(solution: Tensor, residuals: Tensor) -> Tensor:
    """Estimate the standard errors ``(target, player)`` of a regression on pairs of questions that were drawn together.

    ``sqrt(M / (M - n) sum_pairs (sum_q a_q r_q)^2)`` over `M` pairs (Liang and Zeger 1986, doi:10.1093/biomet/73.1.13),
    infinite where there are no more pairs than players.

    Parameters
    ----------
    solution
        ``(player, question)``, the matrix `a` by which the regression takes scores to values.
    residuals
        ``(target, question)``.
    """
    pairs, players = solution.shape[1] // 2, len(solution)
    if pairs <= players:
        return residuals.new_full((len(residuals), players), torch.inf)
    of_pair = (solution * residuals[:, None]).unflatten(-1, (pairs, 2)).sum(-1)
    return (pairs / (pairs - players) * of_pair.square().sum(-1)).sqrt()


def all_coalitions(count: int) -> Tensor:
    """List all coalitions of `count` players, ``(question, player)`` bool, from none to all."""
    return (torch.arange(2**count)[:, None] >> torch.arange(count) & 1).bool()


@cache
def _power(factor: tuple[float, float], exponent: int) -> NDArray[np.float64]:
    """Compute the coefficients of ``((a + b t) / 2)^exponent``, `factor` being `a` and `b`."""
    k = np.arange(exponent + 1)
    choices = gammaln(exponent + 1) - gammaln(k + 1) - gammaln(exponent - k + 1)
    powers: NDArray[np.float64] = np.exp(choices + (exponent - k) * log(factor[0] / 2) + k * log(factor[1] / 2))
    return powers
