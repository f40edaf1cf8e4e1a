"""Mean maps over the cohort: where the model looks at what it called rightly, wrongly and not at all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tasks.plan.labels import Labels
from tasks.report.anatomy import directions, space_of
from tasks.report.pictures import Panel, Scale, case_panels, scales_of

_MOST = 128
_MOST_BYTES = 2 * 2**20
_SEED = 20261124


@dataclass(frozen=True)
class Group:
    """Images of one outcome: how many there are, how many of them were drawn, and pictures of their mean."""

    title: str
    images: int
    drawn: int
    panels: list[Panel]

    @property
    def size(self) -> int:
        return sum(len(panel.uri) for panel in self.panels)


def fitting(groups: Sequence[Group]) -> list[Group]:
    """The first of the groups, as many as fill 2 MB."""
    sizes = np.cumsum([group.size for group in groups])
    return list(groups[: int((sizes <= _MOST_BYTES).sum())])


def mean_maps(
    dataset: xr.Dataset, called: NDArray[np.bool_] | None, labels: Labels | None
) -> tuple[list[Group], list[Scale]]:
    """Draw the mean maps of each explained class by outcome, of at most 128 images each, drawn with a fixed seed.

    Every map is divided by the mean of its absolute values, so that each image counts the same, and a map that is the
    same everywhere is 1.

    Parameters
    ----------
    dataset
        The explained images.
    called
        ``(image, class)``, whether the model says so; None for a regression.
    labels
        Whether it is so; None if no label is known.

    Returns
    -------
    tuple
        The groups, and the colours that they share.
    """
    generator = np.random.default_rng(_SEED)
    means = []
    for title, target, rows in _outcomes(dataset, called, labels):
        drawn = np.sort(generator.permutation(rows)[:_MOST])
        means.append((title, len(rows), len(drawn), _mean(dataset.isel(image_id=drawn, target=[target]).load())))
    scales = scales_of([mean["attribution"] for *_, mean in means])
    return [Group(title, images, drawn, case_panels(mean, 0, scales)) for title, images, drawn, mean in means], scales


def _outcomes(
    dataset: xr.Dataset, called: NDArray[np.bool_] | None, labels: Labels | None
) -> Iterator[tuple[str, int, NDArray[np.intp]]]:
    """Title, index of the target and rows of each outcome that there is."""
    for target, classes in enumerate(dataset["target_class"].values.T):
        for index, name in enumerate(dataset["class"].values):
            of_class = classes == index
            says = np.ones(len(classes), bool) if called is None else called[:, index]
            outcomes = [(f"called {name}", says), (f"not called {name}", ~says)]
            if called is None:
                outcomes = [(str(name), says)]
            elif labels is not None:
                known, truly = labels.known, labels.truth[:, index]
                outcomes = [
                    (f"called {name}, rightly", says & truly),
                    (f"called {name}, wrongly", says & ~truly & known),
                    (f"{name}, but not called so", ~says & truly),
                    (f"not {name}, and not called so", ~says & ~truly & known),
                ]
            for title, among in outcomes:
                if (rows := np.flatnonzero(of_class & among)).size:
                    yield title, target, rows


def _mean(drawn: xr.Dataset) -> xr.Dataset:
    space = space_of(drawn)
    maps = drawn["attribution"]
    even = abs(maps).mean(space)
    affine = drawn["affine"]
    axes = {directions(columns[:3]) for columns in affine.sel(voxel=list(space)).values}
    return xr.Dataset(
        {
            "image": drawn["image"].mean("image_id"),
            "attribution": (maps / even.where(even > 0)).mean("image_id"),
            "affine": affine[0] if len(axes) == 1 else affine[0] * np.nan,
        }
    )
