"""The cases of an output: read from the store, and brought onto the grids of their sources."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.explainers.base import MAP_FLAGS, MAPS
from models.outputs import SPACE, Output
from models.prediction import AFFINE, IMAGE_FLAGS, MASK, TARGET_CLASS
from models.preprocessing import Preprocessing
from models.targets import NO_CLASS, Predicted
from tasks.cohort.entry import Entry
from tasks.cohort.reading import Unreadable
from tasks.cohort.sources import Find
from tasks.export.case import Case, Map, Network
from tasks.export.drawn import drawn_in
from tasks.export.native import Way
from tasks.export.threshold import Threshold
from tasks.plan.plan import Plan
from tasks.ratings.rating import Rating
from tasks.report.pictures import Scale
from tasks.storage.location import Location
from tasks.store.flags import flags_in, raised
from tasks.store.template import open_store
from tasks.work.images import read_original

_SCORES = ("prediction", "metric", "companion", "uncertainty", "share", "record", "region", "counterfactual")


@dataclass(frozen=True)
class Cases:
    """The cases of an output, as one process reads them.

    Attributes
    ----------
    plan
        The output's, with the cohort as this machine finds it.
    explainers
        Whose maps are read.
    scales
        The colours of each of them.
    threshold
        The rule by which maps mark regions.
    find
        Tells where the images lie.
    """

    output: Location
    plan: Plan
    explainers: tuple[str, ...]
    scales: Sequence[Scale]
    threshold: Threshold
    find: Find

    @cached_property
    def _store(self) -> xr.Dataset:
        return open_store(self.output)

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return self.plan.cohort.make_preprocessing()

    def read(self, row: int, entry: Entry, ratings: Sequence[Rating] = ()) -> Case:
        """Read a case.

        Parameters
        ----------
        row
            Its place in the store.
        ratings
            Those of it that count.

        Raises
        ------
        Unreadable
            If the source is not what was explained, or cannot be read.
        OSError
            If storage does not answer.
        """
        original = read_original(self.plan, entry, self._preprocessing, self.find)
        image = self._store.isel(image_id=row)
        self._check_place(original.prepared.affine, image[AFFINE].values)
        space = original.decoded.pixels.shape[1:]
        way = Way.back(original.prepared.to_source, self.plan.grid, space)
        maps = list(self._maps(image, way))
        drawn = drawn_in(ratings, way, self._explained(image))
        lost = [one.rating for one in drawn if one.is_lost]
        mask = image[MASK].values if MASK in image else None
        has_mask = mask is not None and bool((mask <= 1).any())
        return Case(
            entry=entry,
            pixels=original.decoded.pixels,
            channels=self.plan.cohort.channel_names(len(original.decoded.pixels)),
            affine=original.decoded.affine,
            seen=way.seen,
            maps=tuple(one for one in maps if np.isfinite(one.on_grid).all()),
            left_out=tuple(one.title for one in maps if not np.isfinite(one.on_grid).all()),
            mask=way.labels((mask == 1).view(np.uint8)) == 1 if mask is not None and has_mask else None,
            drawn=tuple(one for one in drawn if one.rating not in lost),
            lost=tuple(one.title for one in drawn if one.rating in lost),
            scores=self._scores(image),
            kinds={name: output.kind for name, output in self.plan.outputs.items()},
            flags=_raised(image[IMAGE_FLAGS]),
            words=" ".join(str(image[name].values) for name in self._of_kind("text")),
            network=_network(self.plan),
            files=original.files,
        )

    def _check_place(self, found: NDArray[np.float64], stored: NDArray[np.float64]) -> None:
        """Check that the preprocessing takes the image to where it was explained."""
        if not np.allclose(found, stored, rtol=0, atol=1e-6, equal_nan=True):
            raise Unreadable(
                "the preprocessing takes the image elsewhere than when it was explained: install the versions of "
                "packages that plan.json names"
            )

    def _maps(self, image: xr.Dataset, way: Way) -> Iterator[Map]:
        """Read the maps of the targets that the image has."""
        explained = self._explained(image)
        there = [at for at, name in enumerate(image["target"].values) if name in explained]
        for output in self.plan.outputs.values():
            if not output.is_map or output.name not in image:
                continue
            for target, scale in product(there, self.scales):
                values = image[output.name].isel(target=target).sel(explainer=scale.explainer).load()
                for channel in self.plan.frame.channels if "channel" in values.dims else ("",):
                    yield self._map(image, output, target, scale, channel, values, way)

    def _explained(self, image: xr.Dataset) -> dict[str, str]:
        """Name the class that each target is which the image has; a target that is no class keeps its name."""
        by_rank = isinstance(self.plan.target, Predicted)
        classes = zip(image["target"].values.tolist(), image[TARGET_CLASS].values.tolist(), strict=True)
        return {
            name: self.plan.model.classes[number] if by_rank else name for name, number in classes if number != NO_CLASS
        }

    def _map(
        self, image: xr.Dataset, output: Output, target: int, scale: Scale, channel: str, values: xr.DataArray, way: Way
    ) -> Map:
        flags = image[MAP_FLAGS].isel(target=target).sel(explainer=scale.explainer)
        name = str(image["target"].values[target])
        on_grid = (values.sel(channel=channel) if channel else values).values
        return Map(
            output=output.name,
            explainer=scale.explainer,
            target=name,
            explained=self._explained(image)[name],
            channel=channel,
            about=output.long_name,
            parameters=next(one.deciding for one in self.plan.explainers if one.title == scale.explainer),
            flags=_raised(flags) if output.name == MAPS else (),
            scale=scale.showing(on_grid),
            threshold=self.threshold,
            on_grid=on_grid,
            way=way,
        )

    def _scores(self, image: xr.Dataset) -> dict[str, Any]:
        names = [name for kind in _SCORES for name in self._of_kind(kind)]
        return {name: _by_name(image[name]) for name in names if not {*SPACE} & {*image[name].dims}}

    def _of_kind(self, kind: str) -> list[str]:
        outputs = self.plan.outputs.values()
        return [one.name for one in outputs if one.kind == kind and one.per_image and one.name in self._store]


def _network(plan: Plan) -> Network:
    model, digests = plan.model, plan.model.sha256
    one = digests if isinstance(digests, str) else hashlib.sha256("".join(digests or ()).encode()).hexdigest()
    return Network(str(model.network["_target_"]).rpartition(".")[2] if model.network else "network", one)


def _raised(flags: xr.DataArray) -> tuple[str, ...]:
    found = raised(str(flags.name), flags_in(flags), flags.values[None])
    return tuple(words for words, on in found.items() if on.any())


def _by_name(values: xr.DataArray) -> Any:
    """Arrange values by the names along their dimensions, as JSON holds them: NaN is null."""
    if not values.dims:
        value = values.values[()]
        return value if isinstance(value, str) else _number(value)
    first = values.dims[0]
    return {str(name): _by_name(values.isel({first: at})) for at, name in enumerate(values[first].values)}


def _number(value: Any) -> float | int | None:
    """Take a number as JSON writes it: with the digits that tell it from its neighbours."""
    if isinstance(value, np.integer):
        return int(value)
    return float(str(value)) if np.isfinite(value) else None
