"""The plan: the ordered images cut into shards, and everything else that fixes what a run computes."""

import hashlib
import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.explainers import ExplainerConfig
from models.network import NetworkConfig
from models.targets import TargetConfig
from tasks.cohort import CohortConfig
from tasks.manifest import Entry
from tasks.storage import Location

NAME = "plan.json"
LAYOUT = 1

OBJECT_LIMIT = 64 * 2**20
"""Largest object in bytes before compression: below s3fs's multipart limit (100 MiB) a PUT is atomic."""

_LARGEST_SHARD, _SMALLEST_SHARD = 256, 16


class ModelConfig(NetworkConfig):
    """The model to explain."""

    weights: Location = Field(description="A .safetensors file, or a .pt file that holds a state dict and nothing else")


class Shard(BaseModel):
    """The rows ``start`` to ``stop - 1`` of every array; `digest` changes when their images do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    start: int
    stop: int
    digest: str


class Plan(BaseModel):
    """What a run promises. Two runs with equal plans write equal stores.

    Attributes
    ----------
    masks
        Whether any image has a mask.
    segments
        Whether the model returns a map for each class.
    background
        Ids of the images that stand for what is usual; none if no explainer compares with them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: int = LAYOUT
    images_per_shard: int
    shards: tuple[Shard, ...]
    cohort: CohortConfig
    model: ModelConfig
    explainers: tuple[ExplainerConfig, ...]
    target: TargetConfig
    batch_size: int
    masks: bool
    segments: bool
    background: tuple[str, ...]
    versions: dict[str, str]

    @property
    def images(self) -> int:
        return self.shards[-1].stop

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the explainers that make a map."""
        return tuple(explainer.title for explainer in self.explainers if explainer.makes_map)

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the result."""
        return hashlib.sha256(self._canonical().encode()).hexdigest()

    def differences(self, other: "Plan") -> list[str]:
        """The fields that decide the result and differ."""
        fields = set(type(self).model_fields) - {"versions"}
        return sorted(name for name in fields if getattr(self, name) != getattr(other, name))

    def write(self, output: Location) -> None:
        (output / NAME).write(json.dumps(self.model_dump(mode="json"), indent=1).encode())

    @classmethod
    def read(cls, output: Location) -> "Plan":
        """Read the plan of an output.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        return cls.model_validate_json((output / NAME).read())

    def _canonical(self) -> str:
        return json.dumps(self.model_dump(mode="json", exclude={"versions"}), sort_keys=True)


def make_plan(
    entries: Sequence[Entry],
    *,
    cohort: CohortConfig,
    model: ModelConfig,
    weights_digest: str,
    explainers: Sequence[ExplainerConfig],
    target: TargetConfig,
    batch_size: int,
    segments: bool,
) -> Plan:
    """Cut `entries`, in their order, into shards; their size depends on the work alone, never on the workers."""
    maps = sum(explainer.makes_map for explainer in explainers) * len(target.labels(model.classes))
    size = images_per_shard(len(entries), max(maps, model.channels) * math.prod(model.input_shape) * 4)
    starts = range(0, len(entries), size)
    wanted = cohort.background if any(explainer.needs_background for explainer in explainers) else 0
    return Plan(
        images_per_shard=size,
        shards=tuple(
            Shard(
                index=index,
                start=start,
                stop=min(start + size, len(entries)),
                digest=_digest(entries[start : start + size]),
            )
            for index, start in enumerate(starts)
        ),
        cohort=cohort,
        model=model.model_copy(update={"sha256": weights_digest}),
        explainers=tuple(explainers),
        target=target,
        batch_size=batch_size,
        masks=any(entry.mask for entry in entries),
        segments=segments,
        background=_spread([entry.id for entry in entries if not entry.reason], wanted),
        versions=versions(),
    )


def begun(output: Location) -> bool:
    """Tell whether a run was begun at `output`."""
    return (output / NAME).exists()


def check_free(output: Location, plan: Plan) -> None:
    """Check that `plan` may be carried out at `output`: nothing is there, or a run of an equal plan.

    Raises
    ------
    ValueError
        If there is something else.
    """
    if not begun(output):
        if output.exists() and output.files():
            raise ValueError(
                f"output {output} holds files that are of no run: an output holds nothing else; name another folder"
            )
        return
    try:
        there = Plan.read(output)
    except ValidationError as error:
        raise ValueError(f"output {output} holds a {NAME} of another version: name another folder") from error
    if differing := there.differences(plan):
        raise ValueError(
            f"output {output} holds another run: it differs in {', '.join(differing)}; "
            "name another folder, or delete this one"
        )


def images_per_shard(images: int, image_bytes: int) -> int:
    """Images in a shard: some 16 shards in a small cohort, and no object over the limit where that can be had."""
    fitting = min(_LARGEST_SHARD, OBJECT_LIMIT // image_bytes)
    size = min(fitting, max(_SMALLEST_SHARD, images // 16))
    return max(1, size - size % _SMALLEST_SHARD if size > _SMALLEST_SHARD else size)


def object_rows(shape: Sequence[int], itemsize: int = 4) -> tuple[int, ...]:
    """Cut ``(image, *rest)`` of one shard so that an object stays under the limit; the last two axes stay whole."""
    cut = list(shape)
    for axis in range(1, len(cut) - 2):
        rest = math.prod(cut) * itemsize // cut[axis]
        cut[axis] = max(1, min(cut[axis], OBJECT_LIMIT // rest)) if rest * cut[axis] > OBJECT_LIMIT else cut[axis]
    return tuple(cut)


def groups(plan: Plan, workers: int) -> list[range]:
    """Deal the shards out in runs of neighbours: some eight a worker, and never more than 256."""
    count = min(len(plan.shards), max(workers, min(8 * workers, 256)))
    sizes = [len(plan.shards) // count + (number < len(plan.shards) % count) for number in range(count)]
    stops = list(accumulate(sizes))
    return [range(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


def versions() -> dict[str, str]:
    packages = ("cohortlens", "torch", "monai", "zarr", "xarray", "numpy", "pydicom", "nibabel", "pillow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _spread(ids: Sequence[str], count: int) -> tuple[str, ...]:
    """Choose `count` ids at even distances, or all if there are no more."""
    count = min(count, len(ids))
    return tuple(ids[number * len(ids) // count] for number in range(count))


def _digest(entries: Sequence[Entry]) -> str:
    promised: list[Any] = [[entry.id, entry.digest, entry.mask, entry.label] for entry in entries]
    return hashlib.sha256(json.dumps(promised).encode()).hexdigest()
