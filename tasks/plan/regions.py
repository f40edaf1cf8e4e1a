"""Regions: the one kind of result that needs a file, the atlas."""

import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.errors import ConfigurationError
from models.grids import as_volume
from models.outputs import EXPLAINER, IMAGE_ID, Axis, Frame, Output, flags_of, shape_of
from models.prediction import AFFINE
from models.regions import Atlas, RegionFlag, relevance_by_region, towards_right, volume_by_region
from models.results import RESULTS, Arrays, Result, Stored
from tasks.cohort.reading import LARGEST, Decoded, Unreadable
from tasks.storage.location import Location

logger = logging.getLogger(__name__)

_MAPS = "attribution"
_MOST = 1000
"""No atlas has more labels than this; an image that is given for one has."""

_EXACT = 2**24
"""Volumes are read in single precision, which holds whole numbers up to this one."""

_GRIDS = 4
"""This many grids are remembered with their regions: images of a common space have one."""


class Regions(Result):
    """Relevance by region of an atlas, a label volume in patient space.

    Labels are looked up at each place of an image by nearest neighbour, through the affines of image and atlas. Of each
    map there are sum and mean of the signed values by region (as nilearn's NiftiLabelsMasker has them), and the share
    in the sum of magnitudes, from 0 to 1; share divided by volume is 1 where a region has no more than an even map.
    Laterality is ``(left - right) / (left + right)`` of the magnitudes in regions, from -1 to 1, by the sign of the
    patient's axis: it compares images that lie in a common frame.
    """

    name: Literal["regions"] = "regions"
    atlas: Location = Field(description="The label volume, with its affine: NIfTI, say")
    sha256: str | None = Field(None, description="Its expected digest")
    names: dict[Annotated[int, Field(strict=False, gt=0)], str] = Field(
        {}, description="Names of regions by label; labels of one name are one region, others are named by their number"
    )
    flag_outside: float | None = Field(
        None, ge=0, le=1, description="Flag a map that has a larger share than this outside of all regions"
    )

    def reads(self) -> tuple[str, ...]:
        return (_MAPS, AFFINE)

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        of_map = (IMAGE_ID, "target", EXPLAINER)
        axis = Axis(name=self.title, labels=self.regions, long_name="region of the atlas")
        by_region = {
            "sum": "sum of the map in the region",
            "mean": "mean of the map in the region",
            "share": "share of the region in the sum of the map's magnitudes",
        }
        by_map = {
            "outside": "share of the sum of the map's magnitudes outside of all regions",
            "laterality": "left less right, divided by both, of the map's magnitudes in regions",
        }
        volume = "share of the region in the image"
        return (
            *(self._output(name, (*of_map, self.title), about, (axis,)) for name, about in by_region.items()),
            self._output("volume", (IMAGE_ID, self.title), volume, (axis,)),
            *(self._output(name, of_map, about) for name, about in by_map.items()),
            Output(
                name=f"{self.title}_flags",
                dims=of_map,
                kind="flags",
                long_name="what is odd about the map's relevance by region",
                dtype="uint8",
                fill=0,
                flags=flags_of(RegionFlag),
            ),
        )

    def _output(self, name: str, dims: tuple[str, ...], about: str, axes: tuple[Axis, ...] = ()) -> Output:
        return Output(name=f"{self.title}_{name}", dims=dims, kind="region", long_name=about, axes=axes)

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions, in the order of their least labels."""
        return tuple(dict.fromkeys(name for _, name in sorted(self.names.items())))

    def pinned(self) -> Self:
        """Return a copy that has the atlas's digest, and a name for each of its labels.

        Raises
        ------
        ConfigurationError
            If there is no such file, it is not the expected one, no label volume, or lacks a label that is named.
        """
        labelled = self._read()
        labels = np.unique(labelled.labels[labelled.labels > 0]).tolist()
        if len(labels) > _MOST:
            raise self._refused(f"has {len(labels)} labels, and an atlas at most {_MOST}: is it an image?")
        if not labels:
            raise self._refused("is 0 everywhere: it has no region")
        if unknown := sorted(set(self.names) - set(labels)):
            raise self._refused(
                f"has no label {', '.join(map(str, unknown[:5]))}, which `names` has: its labels are from {labels[0]} "
                f"to {labels[-1]}"
            )
        names = {label: self.names.get(label, str(label)) for label in labels}
        return self.model_copy(update={"sha256": labelled.sha256, "names": names})

    def read_atlas(self) -> Atlas:
        """Read the atlas, as regions are numbered in `regions`.

        Raises
        ------
        ConfigurationError
            If it is not there, or is not the one that the plan names.
        """
        labelled = self._read()
        number = {name: place for place, name in enumerate(self.regions, 1)}
        labels = np.array(sorted(self.names))
        numbers = np.array([0, *(number[self.names[label]] for label in labels.tolist())], np.int32)
        place = np.searchsorted(labels, labelled.labels, side="right")  # every label but 0 is named
        return Atlas(numbers[place], labelled.affine)

    def compute(self, stored: Stored) -> Arrays:
        frame, atlas = stored.frame, self.read_atlas()
        found = _filled(self.declare(frame), frame, len(stored.ids))
        on_grid = _remembered(atlas, frame.grid)
        for rows, block in stored.blocks(*self.reads()):
            for row in np.flatnonzero(stored.explained[rows]).tolist():
                self._enter(found, rows.start + row, block[_MAPS][row], block[AFFINE][row], on_grid)
        lost = int((found[f"{self.title}_flags"] & RegionFlag.NO_OVERLAP).any((1, 2)).sum())
        if lost:
            logger.warning("%s: the atlas does not reach %d images", self.title, lost)
        return found

    def _enter(
        self, found: Arrays, row: int, maps: NDArray[np.float32], affine: NDArray[np.float64], on_grid: "_OnGrid"
    ) -> None:
        """Enter what is found of one image, of whose maps ``(target, explainer, *grid)`` are given."""
        flags = found[f"{self.title}_flags"][row]
        if not np.isfinite(affine).all():
            flags[...] = RegionFlag.NO_GEOMETRY
            return
        place = on_grid(affine.tobytes())
        if place is None:
            flags[...] = RegionFlag.NO_OVERLAP
            return
        grid, count = place.regions.shape, len(self.regions)
        relevance = relevance_by_region(maps.reshape(-1, *grid), place.regions, place.right, count)
        found[f"{self.title}_volume"][row] = volume_by_region(place.regions, count)
        for name, values in relevance._asdict().items():
            found[f"{self.title}_{name}"][row] = values.reshape(*maps.shape[:2], *values.shape[1:])
        if self.flag_outside is not None:
            flags[found[f"{self.title}_outside"][row] > self.flag_outside] = RegionFlag.OUTSIDE

    def _read(self) -> "_Labelled":
        from tasks.cohort.readers import read_mask  # with the libraries that decode

        try:
            data = self.atlas.read()
        except (FileNotFoundError, IsADirectoryError):
            raise ConfigurationError(f"results: {self.title}: there is no file {self.atlas} (atlas)") from None
        digest = hashlib.sha256(data).hexdigest()
        if self.sha256 not in (None, digest):
            raise self._refused(f"has the SHA-256 {digest}, and {self.sha256} was expected: it is another file")
        try:
            decoded = read_mask(data, 3, LARGEST)
        except Unreadable as reason:
            raise self._refused(f"cannot be read: {reason}") from None
        return _Labelled(self._labels(decoded), self._affine(decoded), digest)

    def _labels(self, decoded: Decoded) -> NDArray[np.int32]:
        if len(decoded.pixels) != 1:
            raise self._refused(f"has {len(decoded.pixels)} volumes or channels, and one label volume is needed")
        values = decoded.pixels[0]
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise self._refused("has values that are no whole numbers: give a volume of labels, not of probabilities")
        if values.min() < 0 or values.max() >= _EXACT:
            raise self._refused(f"has labels from {values.min():.0f} to {values.max():.0f}: 0 to {_EXACT - 1} are read")
        return values.astype(np.int32).reshape(as_volume(values.shape))

    def _affine(self, decoded: Decoded) -> NDArray[np.float64]:
        affine = decoded.affine
        if affine is None or not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
            raise self._refused("has no affine that places it in the patient: save it with its geometry, as NIfTI")
        return affine

    def _refused(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"results: {self.title}: the atlas {self.atlas} {why}")


class _Labelled(NamedTuple):
    """An atlas as it is stored: labels ``(z, y, x)``, the affine of their index, and the SHA-256 of the file."""

    labels: NDArray[np.int32]
    affine: NDArray[np.float64]
    sha256: str


class _Place(NamedTuple):
    """Regions of a grid's places, and the mm of each to the patient's right."""

    regions: NDArray[np.int32]
    right: NDArray[np.float64]


_OnGrid = Callable[[bytes], _Place | None]


def _remembered(atlas: Atlas, grid: tuple[int, ...]) -> _OnGrid:
    """Make the function from an affine's bytes to the regions of its grid."""

    @lru_cache(_GRIDS)
    def on_grid(affine: bytes) -> _Place | None:
        matrix = np.frombuffer(affine, np.float64).reshape(4, 4)
        regions = atlas.on(matrix, grid)
        return None if regions is None else _Place(regions, towards_right(matrix, grid))

    return on_grid


def _filled(outputs: tuple[Output, ...], frame: Frame, images: int) -> Arrays:
    return {
        output.name: np.full((images, *shape_of(output, frame)), output.fill_value, output.dtype) for output in outputs
    }


RESULTS.add(Regions)

ResultConfig = Annotated[Result, RESULTS]
