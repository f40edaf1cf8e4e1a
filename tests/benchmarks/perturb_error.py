"""The error of maps that are made of draws, against the passes that they take, before and now, on the demo's networks.

Errors are relative L2. Those of Kernel SHAP, LIME and sampled permutations are to the exact values, of all coalitions
of few segments. That of RISE, which is unbiased before and now, is the spread over runs with other draws. Before are
the estimators as their sources have them: coalitions drawn independently in pairs, choices where each segment is shown
with probability 0.5, independent permutations, and the mean of masks by their probability.

`python -m tests.benchmarks.perturb_error 24` measures 24 images of slices, and a quarter as many of volumes.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from models.engine import Engine
from models.explainers.base import Attribution, ExplainingInputs
from models.explainers.coalitions import all_coalitions
from models.explainers.kernel_shap import KernelSHAP
from models.explainers.lime import LIME
from models.explainers.rise import RISE, _Sums
from models.explainers.shapley_sampling import ShapleySampling
from models.explainers.supervoxels import cut
from models.network import Network
from models.questions import Batch
from models.targets import Classes
from tasks.demo.phantom import phantom
from tests.benchmarks.demo_networks import network_of
from tests.benchmarks.ratios import Curve, Ratio

SEGMENTS, MASKS = {2: 11, 3: 9}, {2: 200, 3: 100}
PASSES = {2: (100, 200, 400), 3: (50, 100, 200)}
RUNS = 6
GOAL = 2.0
TARGET = Classes(classes=("lesion",))


@dataclass(frozen=True)
class Measured:
    """The error of one explainer at a number of passes.

    Attributes
    ----------
    before, now
        ``(image,)``, the error of each image, the root of its mean square over runs.
    half
        ``(image,)``, that of now with half of the passes.
    """

    explainer: str
    dims: int
    passes: int
    before: Tensor
    now: Tensor
    half: Tensor

    def __str__(self) -> str:
        columns = [
            " ".join(f"{value:.3f}" for value in (*part.quantile(torch.tensor([0.5, 0.9])).tolist(), float(part.max())))
            for part in (self.before.float(), self.half.float(), self.now.float())
        ]
        return f"{self.explainer:16} {self.dims}-D {self.passes:4}   {'   '.join(columns)}   {self.saved:5.2f}"

    @property
    def saved(self) -> float:
        """The passes that would be saved if errors fell as the square root: the median of ``(before / now)^2``."""
        return float((self.before / self.now).square().median())


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    print("explainer, passes; median, 90 % and largest error before, with half now, now; median of (before / now)^2")
    for measured in measure(count):
        print(measured, flush=True)


def measure(images: int = 4) -> Iterator[Measured]:
    """Measure all four over some slices, and a quarter as many volumes, but two at least."""
    for dims in (2, 3):
        network, batch = network_of(f"{dims}-D"), cases(dims, images if dims == 2 else max(2, images // 4))
        yield rise(network, batch, MASKS[dims])
        games = [game(network, image[None], SEGMENTS[dims]) for image in batch]
        for estimate in (kernel_shap, lime, permutations):
            for passes in PASSES[dims]:
                errors = torch.stack(
                    [torch.stack([estimate(one, passes, run) for run in range(RUNS)]) for one in games]
                )
                before, now, half = errors.square().mean(1).sqrt().unbind(1)
                yield Measured(estimate.__name__, dims, passes, before, now, half)


@cache
def _measured() -> tuple[Measured, ...]:
    return tuple(measure())


def curves() -> Iterator[Curve]:
    """Take the median over images; RISE, measured at one number of passes, has no curve."""
    for (explainer, dims), rows in groupby(_measured(), lambda row: (row.explainer, row.dims)):
        own = [*rows]
        passes = tuple(row.passes for row in own)
        if len(own) > 1:
            for method, errors in (("before", [row.before for row in own]), ("now", [row.now for row in own])):
                medians = tuple(float(error.median()) for error in errors)
                yield Curve(f"{explainer}, {dims}-D", method, passes, medians)


def ratios() -> Iterator[Ratio]:
    for (explainer, dims), rows in groupby(_measured(), lambda row: (row.explainer, row.dims)):
        *_, last = rows
        note = f"median error of {last.passes} passes; before {float(last.before.median()):.1e}"
        name = f"{explainer}, {dims}-D: passes before / passes now, at one error"
        yield Ratio(name, last.saved, GOAL, float(last.now.median()), note=note)


def cases(dims: int, count: int) -> Tensor:
    drawn = torch.stack([torch.as_tensor(phantom(row, spatial_dims=dims, seed=7).pixels) for row in range(count)])
    return functional.layer_norm(drawn[:, None], (1, *drawn.shape[1:]), eps=0)


@dataclass(frozen=True)
class Game:
    """The scores of all coalitions of an image's segments, in the order of their binary numbers."""

    players: int
    scores: Tensor

    def of(self, shown: Tensor) -> Tensor:
        return self.scores[None, shown.long() @ 2 ** torch.arange(self.players)]

    @property
    def ends(self) -> Tensor:
        return self.scores[[0, -1], None]


def game(network: Network, image: Tensor, segments: int) -> Game:
    number = next(number for number in range(segments, 0, -1) if cut(image, number, 0.3).counts[0] <= segments)
    pieces = cut(image, number, 0.3)
    scores = []
    with torch.no_grad():
        for shown in all_coalitions(pieces.counts[0]).split(16):
            visible = shown[:, pieces.labels[0]][:, None]
            scores.append(network(network.prepare(image.where(visible, 0.0)))[:, 1].double())
    return Game(pieces.counts[0], torch.cat(scores))


def errors_of(game: Game, exact: Tensor, before: Tensor, now: Callable[[int], Tensor], passes: int) -> Tensor:
    """Compute the errors before, now, and now with half of the passes."""
    made = torch.cat([before, now(passes), now(passes // 4 * 2)])
    return (made - exact).norm(dim=1) / exact.norm()


def kernel_shap(game: Game, passes: int, run: int) -> Tensor:
    count = game.players

    def now(samples: int) -> Tensor:
        explainer = KernelSHAP(samples=samples)
        shown, weights = explainer._coalitions(count, str(run))
        return explainer._solve(shown, weights, game.of(shown), game.ends).values

    sizes = torch.arange(1, count)
    seeded = torch.Generator().manual_seed(run)
    size = torch.multinomial(1 / (sizes * (count - sizes)), passes // 2, True, generator=seeded) + 1
    shown = torch.stack([torch.randperm(count, generator=seeded) for _ in size]) < size[:, None]
    return errors_of(game, now(2**count), _by_regression(torch.cat([shown, ~shown]), game), now, passes)


def _by_regression(shown: Tensor, game: Game) -> Tensor:
    empty, full = game.ends
    features = shown.double() - shown.double().mean(1, keepdim=True)
    rest = game.of(shown) - empty - (full - empty) * shown.double().mean(1)
    return (full - empty) / game.players + rest @ torch.linalg.pinv(features).T


def lime(game: Game, passes: int, run: int) -> Tensor:
    def now(samples: int) -> Tensor:
        explainer = LIME(samples=samples)
        shown, weights = explainer._coalitions(game.players, str(run))
        return explainer._fit(shown, weights, game.of(shown)).values

    standard = LIME(samples=2**game.players)
    shown = torch.rand(passes, game.players, generator=torch.Generator().manual_seed(run)) < 0.5
    before = standard._fit(shown, torch.as_tensor(standard._kernel(game.players))[shown.sum(1)], game.of(shown))
    return errors_of(game, now(2**game.players), before.values, now, passes)


def permutations(game: Game, passes: int, run: int) -> Tensor:
    count = game.players

    def gains(ranks: Tensor) -> Tensor:
        sizes = torch.arange(count + 1)[:, None]
        paths = game.of((ranks[:, None] < sizes).flatten(0, 1))[0].view(len(ranks), count + 1)
        return paths.diff(dim=1).gather(1, ranks).mean(0, keepdim=True)

    def now(passes: int) -> Tensor:
        orders = max(2, passes // (count - 1) // 2 * 2)
        return gains(ShapleySampling(permutations=orders)._ranks(count, str(run)))

    explainer = KernelSHAP(samples=2**count)
    shown, weights = explainer._coalitions(count, "")
    exact = explainer._solve(shown, weights, game.of(shown), game.ends).values
    seeded = torch.Generator().manual_seed(run)
    orders = range(max(2, passes // (count - 1) // 2 * 2))
    before = gains(torch.stack([torch.randperm(count, generator=seeded) for _ in orders]))
    return errors_of(game, exact, before, now, passes)


class _MeanOfMasks(RISE):
    """RISE by the mean of masks times probability."""

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        sums = _Sums.zeros(batch, self.samples)
        yield from self._ask(batch, sums, torch.arange(len(batch.images)), slice(0, self.samples))
        return Attribution(sums.products / (self.samples * self.keep))


def rise(network: Network, images: Tensor, passes: int) -> Measured:
    before, now, half = (
        _spread(network, images, explainer)
        for explainer in (_MeanOfMasks(samples=passes), RISE(samples=passes), RISE(samples=passes // 2))
    )
    return Measured("rise", network.config.spatial_dims, passes, before, now, half)


def _spread(network: Network, images: Tensor, explainer: RISE) -> Tensor:
    engine = Engine(network, [explainer], TARGET)
    maps = [engine.explain(images, [f"{run} {row}" for row in range(len(images))]).maps[:, 0, 0] for run in range(RUNS)]
    assert engine.forward_passes == RUNS * len(images) * (1 + explainer.samples)
    drawn = torch.stack(maps).flatten(2).double()
    return drawn.var(0).sum(1).sqrt() / drawn.mean(0).norm(dim=1)


if __name__ == "__main__":
    main()
