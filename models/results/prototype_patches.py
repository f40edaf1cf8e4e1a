from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.outputs import Axis, Frame, Output
from models.results.base import Arrays, Result, Stored


class PrototypePatches(Result):
    """Patches of the cohort that are most similar to each prototype of the network: the images, and the places in them.

    The images are those of the greatest similarity, as `prototype_activation` stores it, at most one of a subject, and
    of equals the one of the lower row; an image that was not explained or was withdrawn is left out. Over the images
    that a network was trained on, they are the nearest training patches.
    """

    name: Literal["prototype_patches"] = "prototype_patches"
    patches: int = Field(5, ge=1, le=100, description="Number of patches of each prototype")
    of: str = Field("prototype", description="Prototypes: `prototype`, or the label of a prototype_activation")

    @property
    def prefix(self) -> str:
        return self.label or "patch"

    def reads(self) -> tuple[str, ...]:
        return (f"{self.of}_similarity", f"{self.of}_place")

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        labels = tuple(float(rank) for rank in range(1, self.patches + 1))
        rank = Axis(name=f"{self.prefix}_rank", labels=labels, long_name="rank, the most similar first")
        dims = (self.of, rank.name)
        return (
            Output(name=f"{self.prefix}_image", dims=dims, kind="result", dtype="int32", fill=-1, axes=(rank,),
                   long_name="row of the image that the patch is of; -1 where there is none"),
            Output(name=f"{self.prefix}_similarity", dims=dims, kind="result", axes=(rank,),
                   long_name="similarity of the patch to the prototype"),
            Output(name=f"{self.prefix}_place", dims=(*dims, f"{self.of}_axis"), kind="result", axes=(rank,),
                   long_name="index of the voxel in the middle of the patch"),
        )  # fmt: skip

    def compute(self, stored: Stored) -> Arrays:
        similarity = _of_every_image(stored, self.reads()[0])
        similarity = np.where(stored.explained[:, None], similarity, np.nan)
        rows = np.full((similarity.shape[1], self.patches), -1, np.int32)
        for own, values in zip(rows, similarity.T, strict=True):
            found = list(islice(_greatest(values, stored), self.patches))
            own[: len(found)] = found
        there, prototypes = rows >= 0, np.arange(len(rows))[:, None]
        places = np.full((*rows.shape, len(stored.frame.grid)), np.nan, np.float32)
        for block, values in stored.blocks(self.reads()[1]):
            of_block = there & (rows >= block.start) & (rows < block.stop)
            at = np.broadcast_to(prototypes, rows.shape)[of_block]
            places[of_block] = values[self.reads()[1]][rows[of_block] - block.start, at]
        return {
            f"{self.prefix}_image": rows,
            f"{self.prefix}_similarity": np.where(there, similarity[rows, prototypes], np.nan).astype(np.float32),
            f"{self.prefix}_place": places,
        }


def _of_every_image(stored: Stored, name: str) -> NDArray[Any]:
    return np.concatenate([block[name] for _, block in stored.blocks(name)])


def _greatest(values: NDArray[np.floating], stored: Stored) -> Iterator[int]:
    """Yield the rows of the greatest of values ``(image,)`` that are finite, the first of each subject."""
    seen: set[str] = set()
    for row in np.argsort(-values, kind="stable"):  # NaN comes last
        if np.isfinite(values[row]) and stored.subjects[row] not in seen:
            seen.add(stored.subjects[row])
            yield int(row)
