"""A case: what formats write of one image, on the grid of its source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.cohort.entry import Entry
from tasks.export.drawn import DrawnRegion
from tasks.export.native import Way
from tasks.export.threshold import Threshold
from tasks.report.pictures import Scale


@dataclass(frozen=True)
class Map:
    """One map of a case.

    Attributes
    ----------
    output
        The array of the store that it comes of, such as ``attribution``.
    explainer, target
        As the store names them.
    explained
        The class that is explained; of a target that names none, the target.
    channel
        The channel of the image that it is of; empty where it combines them.
    about
        The long name of the store's array.
    parameters
        The explainer's, by name.
    flags
        What is odd about it, in words.
    scale
        Its colours, which have the same limit in all cases.
    threshold
        The rule by which the map marks a region.
    """

    output: str
    explainer: str
    target: str
    explained: str
    channel: str
    about: str
    parameters: Mapping[str, Any]
    flags: tuple[str, ...]
    scale: Scale
    threshold: Threshold
    on_grid: NDArray[np.float32]
    way: Way

    @property
    def title(self) -> str:
        """A name that no other map of the case has, to be shown."""
        beside = (self.channel and f"channel {self.channel}", self.output if self.output != "attribution" else "")
        return ", ".join([f"{self.explainer} for {self.explained}", *filter(None, beside)])

    @property
    def values(self) -> NDArray[np.float32]:
        """The map on the source's grid, ``(*space)``, signed; made anew each time, since volumes are large."""
        return self.way.map(self.on_grid)


class Network(NamedTuple):
    """The network that was explained: the name of its class, and SHA-256 of its weights, over those of its folds."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Case:
    """One image with all that is written of it. ``space`` is ([z,] y, x) of the source.

    Attributes
    ----------
    entry
        The image as the manifest has it, without its sources.
    pixels
        ``(channel, *space)`` float32, in the source's own units.
    channels
        Names of the channels of the image.
    affine
        ``(4, 4)`` index (z, y, x) of the source to RAS mm; None where the source has no geometry.
    seen
        ``(*space)``, the voxels that the network was shown; elsewhere maps and mask are 0.
    maps
        All that are finite, in the order of the store.
    left_out
        Titles of the maps that are not finite.
    mask
        ``(*space)``, the reference region as metrics were given it; None where the image has none.
    drawn
        The regions that raters drew, of ratings that count.
    lost
        Titles of those that are left out, since no voxel of the source is nearest to a place in them.
    scores
        By output of the store, its values by the names along each dimension: prediction, metrics, uncertainty, words.
    kinds
        By output of the store, its kind, such as ``metric`` or ``region``.
    flags
        What is odd about the image or its prediction, in words.
    words
        The case in sentences; empty where the run was not asked for any.
    network
        The network that was explained.
    files
        The bytes of the source's files, of the first sequence where there are several.
    """

    entry: Entry
    pixels: NDArray[np.float32]
    channels: tuple[str, ...]
    affine: NDArray[np.float64] | None
    seen: NDArray[np.bool_]
    maps: tuple[Map, ...]
    left_out: tuple[str, ...]
    mask: NDArray[np.bool_] | None
    drawn: tuple[DrawnRegion, ...]
    lost: tuple[str, ...]
    scores: Mapping[str, Any]
    kinds: Mapping[str, str]
    flags: tuple[str, ...]
    words: str
    network: Network
    files: tuple[bytes, ...]

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def space(self) -> tuple[int, ...]:
        """Sides of the source's grid."""
        return self.seen.shape
