"""The base of feature visualisation: pictures that raise a score of the network, and measures on the way there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT
from models.draws import Draws
from models.errors import ConfigurationError
from models.network import Network
from models.outputs import Axis, Frame, Output
from models.prediction import IMAGE
from models.results.ascent import Ascent, Score, falling
from models.results.base import Arrays, Result, Stored

BOUNDS = ("low", "high", "bright")
MEASURES = ("mean", "deviation", "edges", "bright", "change")

_TYPICAL = 64
_BRIGHT = 0.95
_NOISE = 0.02
_LENGTH = 0.01

Values = NDArray[np.float32]


class Visualisation(Result):
    """The base of results that raise scores of the network by activation maximisation (`Ascent`).

    All is in the units in which the network takes images, and values stay within the range that each channel has in at
    most 64 images of the cohort, which are drawn by their ids. Ascents start from the mean of these images with smooth
    noise of 2 % of the range, and from the first of these images as they are. A step is at most 1 % of the range, root
    mean square.
    """

    requires = GRADIENT

    steps: int = Field(32, ge=1, le=1000, description="Steps of each ascent")
    seeds: int = Field(3, ge=1, le=100, description="Ascents that start from the mean of images, with noise")
    images: int = Field(3, ge=0, le=_TYPICAL, description="Ascents that start from an image of the cohort")

    def aim(self, frame: Frame) -> tuple[str, tuple[Axis, ...]]:
        """Name the dimension of the scores, and declare it where no output does that is read."""
        raise NotImplementedError

    def scores(self, stored: Stored) -> list[Score | None]:
        """Make the score for each place of `aim`; None where there is nothing to raise."""
        raise NotImplementedError

    def reads(self) -> tuple[str, ...]:
        return (IMAGE,)

    def check(self, outputs: Mapping[str, Output]) -> None:
        super().check(outputs)
        if "slide_overview" in outputs:
            raise self.refused("with cohort.slides an image is a bag of tiles, which is no picture")

    def check_network(self, network: Network) -> None:
        super().check_network(network)
        if not network.tiles.is_whole:
            raise self.refused("with model.windows the network answers about windows, and about no whole picture")
        if network.fields:
            raise self.refused("with cohort.record the network answers about no picture alone")

    def refused(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"results: {self.title}: {why}: leave the result out")

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        aim, aims = self.aim(frame)
        names = [f"seed {number}" for number in range(1, self.seeds + 1)]
        names += [f"image {number}" for number in range(1, self.images + 1)]
        start = self.axis("start", tuple(names), "start of the ascent")
        step = self.axis("step", tuple(map(float, range(self.steps + 1))), "steps of the ascent so far")
        of = self.axis("of", MEASURES, "what is measured")
        bound = self.axis("bound", BOUNDS, "bound of values")

        def declared(name: str, dims: tuple[str, ...], about: str, *axes: Axis, **more: Any) -> Output:
            return Output(name=name, dims=dims, kind="result", long_name=about, axes=axes, **more)

        path = (aim, start.name, step.name)
        return (
            declared(f"{self.title}_score", path, "score of the picture", *aims, start, step),
            declared(f"{self.title}_measure", (*path, of.name, "channel"), "measure of the picture, of each channel",
                     *aims, start, step, of),
            declared(self.title, (aim, start.name, "channel", *frame.space),
                     "picture at the end of the ascent, as the network takes it", *aims, start),
            declared(f"{self.title}_row", (start.name,), "row of the image that the ascent starts from; -1: no image",
                     start, dtype="int32", fill=-1),
            declared(f"{self.title}_range", (bound.name, "channel"),
                     "least and greatest value in images of the cohort, and the value that 5 % exceed", bound),
        )  # fmt: skip

    def axis(self, name: str, labels: tuple[float, ...] | tuple[str, ...], about: str) -> Axis:
        return Axis(name=f"{self.title}_{name}", labels=labels, long_name=about)

    def passes(self, outputs: tuple[Output, ...]) -> tuple[int, int]:
        score = outputs[0]
        sizes = {axis.name: axis.size for axis in score.axes}
        ascents = sizes[score.dims[0]] * sizes[score.dims[1]]
        return ascents * (1 + 2 * self.steps), ascents * (1 + self.steps)

    def compute(self, stored: Stored) -> Arrays:
        by_id = np.argsort(np.array(stored.ids), kind="stable")
        by_id = by_id[stored.explained[by_id]]
        rows = np.random.default_rng(0).permutation(by_id)[:_TYPICAL]
        if not len(rows):
            return {}
        own, network = rows[: self.images], stored.network
        with network.exact(), _repeatable():
            images = torch.from_numpy(stored.inputs(rows)).to(network.synthetic(1))
            bounds = bounds_of(images)
            starts = [*self._seeded(images.mean(0), bounds), *images[: self.images]]
            paths = [[self._path(score, start, bounds) for start in starts] for score in self.scores(stored)]
        lacking = self.images - len(own)
        return {
            f"{self.title}_score": _stacked([[one.scores for one in of] for of in paths], lacking),
            f"{self.title}_measure": _stacked([[one.measures for one in of] for of in paths], lacking),
            self.title: _stacked([[one.picture for one in of] for of in paths], lacking),
            f"{self.title}_row": np.array([*[-1] * self.seeds, *own, *[-1] * lacking], np.int32),
            f"{self.title}_range": bounds.cpu().numpy(),
        }

    def _seeded(self, mean: Tensor, bounds: Tensor) -> Iterator[Tensor]:
        """Add smooth noise to ``(channel, *space)``, once for each seed."""
        low, high, _ = _by_channel(bounds, mean)
        axes = tuple(range(1, mean.ndim))
        draws = Draws("visualisation", [""])
        for number in range(self.seeds):
            (drawn,) = draws.gaussian(mean.shape, sample=number)
            spectrum = torch.fft.rfftn(drawn, dim=axes) * falling(mean.shape[1:])
            noise = torch.fft.irfftn(spectrum, mean.shape[1:], dim=axes)
            yield mean + _NOISE * (high - low) * (noise / noise.std()).to(mean)

    def _path(self, score: Score | None, start: Tensor, bounds: Tensor) -> "Path":
        low, high, bright = _by_channel(bounds, start)
        ascent = Ascent(low, high, falling(start.shape[1:]).to(start), _LENGTH)
        if score is None:
            return Path.missing(start, self.steps)
        return Path.of([*ascent.climb(score, start, self.steps)], bright)


@dataclass(frozen=True)
class Path:
    """An ascent: the picture at its end ``(channel, *space)``, scores ``(step,)``, measures ``(step, of, channel)``."""

    picture: Values
    scores: Values
    measures: Values

    @classmethod
    def of(cls, steps: list[tuple[Tensor, float]], bright: Tensor) -> Self:
        pictures, scores = zip(*steps, strict=True)
        found = torch.stack([measures(picture, pictures[0], bright) for picture in pictures])
        return cls(pictures[-1].float().cpu().numpy(), np.array(scores, np.float32), found.float().cpu().numpy())

    @classmethod
    def missing(cls, start: Tensor, steps: int) -> Self:
        shapes = (tuple(start.shape), (steps + 1,), (steps + 1, len(MEASURES), len(start)))
        return cls(*(np.full(shape, np.nan, np.float32) for shape in shapes))


def measures(picture: Tensor, start: Tensor, bright: Tensor) -> Tensor:
    """Measure each channel of ``(channel, *space)`` in the order of `MEASURES`, ``(measure, channel)``.

    They are mean; standard deviation; edges, the mean magnitude of the gradient by central differences, per place;
    bright, the share of places above `bright`, ``(channel, 1, ...)``; change, the root mean square of the difference
    from the start.
    """
    axes = tuple(range(1, picture.ndim))
    slopes = torch.stack(torch.gradient(picture, dim=axes))
    return torch.stack(
        [
            picture.mean(axes),
            picture.std(axes, correction=0),
            slopes.square().sum(0).sqrt().mean(axes),
            (picture > bright).to(picture).mean(axes),
            (picture - start).square().mean(axes).sqrt(),
        ]
    )


def bounds_of(images: Tensor) -> Tensor:
    """Find the least value of each channel, the greatest, and that which 5 % exceed, ``(bound, channel)``."""
    values = images.transpose(0, 1).flatten(1)
    rank = max(1, round(_BRIGHT * values.shape[1]))
    return torch.stack([values.amin(1), values.amax(1), values.kthvalue(rank, 1).values])


def _by_channel(bounds: Tensor, picture: Tensor) -> Tensor:
    """View ``(bound, channel)`` so that it spreads over the places of a picture."""
    return bounds.view(*bounds.shape, *[1] * (picture.ndim - 1))


def _stacked(values: list[list[Values]], lacking: int) -> Values:
    """Stack ``[aim][start]``; NaN for the starts that are lacking at the end."""
    found = np.array(values)
    return np.pad(found, [(0, 0), (0, lacking), *[(0, 0)] * (found.ndim - 2)], constant_values=np.nan)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Let every process compute the same: by one thread on CPUs, and by algorithms on GPUs that sum in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
