"""The trapezoid rule at places that are bisected where the values jump, with an estimate of its error."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Points:
    """Scores and values that are known at places of a path of each image.

    Attributes
    ----------
    places
        ``(image, node)`` in [0, 1].
    scores
        ``(target, image, node)``, whose derivative along the path is the sum over all parts.
    parts
        What is integrated, each ``(target, image, node, ...)``.
    """

    places: Tensor
    scores: Tensor
    parts: tuple[Tensor, ...]

    def rows(self, rows: Tensor) -> "Points":
        """Take the paths of some of the images, by their numbers or by ``(image,)`` bool."""
        return Points(self.places[rows], self.scores[:, rows], tuple(part[:, rows] for part in self.parts))

    def nodes(self, nodes: Tensor) -> "Points":
        """Take nodes ``(image, chosen)`` of each image."""
        rows = torch.arange(len(nodes), device=nodes.device)[:, None]
        return Points(
            self.places[rows, nodes], self.scores[:, rows, nodes], tuple(p[:, rows, nodes] for p in self.parts)
        )

    @staticmethod
    def join(points: Sequence["Points"]) -> "Points":
        return Points(
            torch.cat([one.places for one in points], 1),
            torch.cat([one.scores for one in points], 2),
            tuple(torch.cat(parts, 2) for parts in zip(*(one.parts for one in points), strict=True)),
        )


@dataclass(frozen=True)
class Bisection:
    """The trapezoid rule over the paths of some images, each at places of its own.

    The gradient of a network of ReLUs and maxima is constant but for jumps. Of a value that jumps by ``d`` somewhere in
    an interval of width ``h``, the rule misses ``h |d| / sqrt(12)`` in the root mean square over the places where the
    jump may lie. Jumps are taken to be independent, which also makes the rule the best linear one:

    ``error^2 = sum_i b_i h_i^2 |d_i|^2 / 12,  b = |d1 - d2|^2 / (|d1|^2 + |d2|^2)``

    with ``d1`` and ``d2`` the differences over the halves of the interval whose bisection made the interval `i`: ``b``
    is about 1 where values jump, and about 0 where they go straight, as with smooth activations. The estimate is
    relative to the norm of the integral.

    A jump there and back between two nodes shows in the score alone. Therefore the error of an interval is at least its
    part of the completeness gap, ``|S(a + h) - S(a) - h (D(a) + D(a + h)) / 2|`` with ``D`` the sum of all parts, and
    the error of the integral at least the whole gap, both relative to the sum of magnitudes of the integrals: the gap
    is never larger than the error in that norm.

    Attributes
    ----------
    points
        Nodes in the order in which they were asked about; the first two are the ends of the path.
    bends
        Of each part, ``sqrt(b)`` of the interval in whose middle a node lies, ``(target, image, node)``.
    """

    points: Points
    bends: tuple[Tensor, ...]

    @classmethod
    def between(cls, start: Points, stop: Points) -> "Bisection":
        """Begin with one interval."""
        points = Points.join([start, stop])
        return cls(points, tuple(torch.ones_like(points.scores) for _ in points.parts))

    @property
    def count(self) -> int:
        """The number of nodes of each image."""
        return self.points.places.shape[1]

    @cached_property
    def order(self) -> Tensor:
        """The nodes from 0 to 1, ``(image, node)``."""
        return self.points.places.argsort(1)

    @cached_property
    def widths(self) -> Tensor:
        """The widths of the intervals, ``(image, interval)``."""
        return self.points.places.gather(1, self.order).diff(dim=1)

    @cached_property
    def integrals(self) -> tuple[Tensor, ...]:
        """The integral of each part, ``(target, image, ...)``."""
        of_sorted = (functional.pad(self.widths, (1, 0)) + functional.pad(self.widths, (0, 1))) / 2
        weights = torch.zeros_like(of_sorted).scatter(1, self.order, of_sorted)
        return tuple(torch.einsum("in,tin...->ti...", weights, part) for part in self.points.parts)

    @cached_property
    def errors(self) -> Tensor:
        """The estimated error of each interval, relative to the integral, ``(target, image, interval)``."""
        later = torch.maximum(self.order[:, :-1], self.order[:, 1:])  # a node is in the middle of what it bisected
        errors = [self._gaps.abs()]
        for part, bend, integral in zip(self.points.parts, self.bends, self.integrals, strict=True):
            jumps = torch.stack([_norm(self._at(part, b) - self._at(part, a)) for a, b in pairwise(self.order.T)], -1)
            rough = self.widths * jumps * bend.gather(2, later.expand_as(jumps)) / sqrt(12)
            errors.append(_share(rough, _norm(integral)))
        return torch.stack(errors).amax(0)

    @property
    def error(self) -> Tensor:
        """The estimated error of the integral, relative to the integral, ``(target, image)``."""
        return torch.maximum(self.errors.square().sum(-1).sqrt(), self._gaps.sum(-1).abs())

    @cached_property
    def _gaps(self) -> Tensor:
        """Part of the change of the score that each interval's sum lacks, ``(target, image, interval)``."""
        order = self.order.expand_as(self.points.scores)
        slopes = torch.stack([part.flatten(3).sum(-1) for part in self.points.parts]).sum(0).gather(2, order)
        change = self.points.scores.gather(2, order).diff(dim=2)
        magnitude = torch.stack([integral.abs().flatten(2).sum(-1) for integral in self.integrals]).sum(0)
        return _share(change - self.widths * (slopes[..., 1:] + slopes[..., :-1]) / 2, magnitude)

    def _at(self, part: Tensor, node: Tensor) -> Tensor:
        return part[:, torch.arange(len(node), device=node.device), node]

    def rows(self, rows: Tensor) -> "Bisection":
        """Go on with those of the images, ``(image,)`` bool."""
        if rows.all():
            return self  # with all that it has worked out
        return Bisection(self.points.rows(rows), tuple(bend[:, rows] for bend in self.bends))

    def worst(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the intervals of the largest error: their ends, as nodes, and middles, each ``(image, interval)``."""
        errors, places = self.errors.amax(0), self.points.places
        worst = errors.topk(min(count, errors.shape[1]), dim=1).indices
        left, right = self.order.gather(1, worst), self.order.gather(1, worst + 1)
        return left, right, (places.gather(1, left) + places.gather(1, right)) / 2

    def bisected(self, left: Tensor, right: Tensor, middle: Points) -> "Bisection":
        """Put `middle` between nodes that are neighbours."""
        before, after = self.points.nodes(left), self.points.nodes(right)
        bends = []
        for bend, a, m, b in zip(self.bends, before.parts, middle.parts, after.parts, strict=True):
            first, second = m - a, b - m
            moved = _norm(first, 3).square() + _norm(second, 3).square()
            bends.append(torch.cat([bend, _share(_norm(second - first, 3), moved.sqrt())], 2))
        return Bisection(Points.join([self.points, middle]), tuple(bends))


def _norm(values: Tensor, keep: int = 2) -> Tensor:
    """Compute the norms over all but the first axes."""
    return values.flatten(keep).norm(dim=-1)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Divide by `whole`, which may lack the last axis; 0 of nothing is nothing."""
    whole = whole.view(*whole.shape, *[1] * (part.ndim - whole.ndim))
    return (part / whole).nan_to_num(nan=0.0, posinf=torch.inf)
