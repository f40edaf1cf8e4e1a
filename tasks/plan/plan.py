"""The plan: the ordered images cut into shards, and everything else that fixes what a run computes."""

import hashlib
import json
import math
import platform
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import accumulate, pairwise

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.explainers import ExplainerConfig
from models.metrics import MetricConfig
from models.network import NetworkConfig, Precision
from models.precision import Agreement
from models.targets import TargetConfig
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry
from tasks.cohort.pseudonyms import Key
from tasks.plan import manifest
from tasks.plan.ensemble import UncertaintyConfig
from tasks.plan.shards import Shard, cut, digest_of, images_per_shard, spread
from tasks.storage.location import Location

NAME = "plan.json"
LAYOUT = 4

_WAYS_OUT = "name another output, or put this one out of the way with --overwrite"


class ModelConfig(NetworkConfig):
    """The model to explain."""

    weights: Location = Field(description="A .safetensors file, or a .pt file that holds a state dict and nothing else")


class Measure(BaseModel):
    """A metric, and what it stores beside its value: companions, and curves over points.

    Attributes
    ----------
    others
        Outputs whose maps of the same images these are compared with, and a digest over what they had delivered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: MetricConfig
    companions: tuple[str, ...]
    curves: tuple[str, ...]
    points: tuple[float, ...] | tuple[str, ...]
    others: tuple[Location, ...] = ()
    others_digest: str = ""

    @property
    def title(self) -> str:
        return self.metric.title

    @property
    def variable(self) -> str:
        return f"metric_{self.title}"

    def companion(self, name: str) -> str:
        return f"{self.variable}_{name}"

    def curve(self, name: str) -> str:
        return f"curve_{self.title}_{name}"

    @property
    def axis(self) -> str:
        """The dimension of the curves."""
        return f"point_{self.title}"


class Plan(BaseModel):
    """What a run promises. The store is a function of the plan, the manifest and the images alone.

    Attributes
    ----------
    together
        How many of the explainers, in their order, are asked together: a part of every shard. What extends an output
        is a part of its own.
    withdrawn
        Digests of the subjects that were withdrawn and must not come back.
    run_id
        Of the run that drew up the plan.
    agreement
        Of bf16 with fp32, in the maps of the first batch by explainer.
    masks, segments
        Whether any image has a mask; whether the model returns a map for each class.
    background
        Ids of the images that stand for what is usual; none if no explainer compares with them.
    key
        Of the pseudonyms in the manifest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: int = LAYOUT
    images_per_shard: int
    shards: tuple[Shard, ...]
    cohort: CohortConfig
    model: ModelConfig
    explainers: tuple[ExplainerConfig, ...]
    together: tuple[int, ...]
    target: TargetConfig
    batch_size: int
    precision: Precision = "fp32"
    agreement: dict[str, Agreement] = {}
    masks: bool
    segments: bool
    background: tuple[str, ...]
    metrics: tuple[Measure, ...] = ()
    uncertainty: tuple[UncertaintyConfig, ...] = ()
    key: Key
    withdrawn: tuple[str, ...] = ()
    versions: dict[str, str]
    run_id: str = ""

    @property
    def images(self) -> int:
        return self.shards[-1].stop

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the explainers that make a map."""
        return tuple(explainer.title for explainer in self.explainers if explainer.makes_map)

    @property
    def measures(self) -> tuple[Measure | UncertaintyConfig, ...]:
        """What is worked out of what the shards have delivered."""
        return (*self.metrics, *self.uncertainty)

    @property
    def parts(self) -> tuple[tuple[ExplainerConfig, ...], ...]:
        """The explainers, by the part of a shard that they belong to."""
        stops = [0, *accumulate(self.together)]
        return tuple(self.explainers[start:stop] for start, stop in pairwise(stops))

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the result."""
        return digest_of(self.model_dump(mode="json", exclude={"versions", "run_id", "withdrawn", "key", "agreement"}))

    @cached_property
    def part_digests(self) -> tuple[str, ...]:
        """Over all that decides each part of a shard beside its images."""
        common = {
            **self.model_dump(mode="json", include={"layout", "images_per_shard", "target", "batch_size"}),
            **self.model_dump(mode="json", include={"masks", "segments"}),
            **({} if self.precision == "fp32" else {"precision": self.precision}),
            "model": self.model.model_dump(mode="json", exclude={"weights"}),
            "cohort": self.cohort.model_dump(mode="json", include={"preprocessing", "window"}),
        }
        return tuple(
            digest_of(common | {"explainers": [explainer.model_dump(mode="json") for explainer in part]})
            for part in self.parts
        )

    def write(self, output: Location, entries: Sequence[Entry]) -> None:
        """Write plan and manifest, both or neither; then ``plan.json``, which is a copy for people to read."""
        text = self.model_dump_json()
        metadata = {"plan": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        manifest.write(output, entries, self.images_per_shard, metadata)
        self.write_copy(output)

    def write_copy(self, output: Location) -> None:
        (output / NAME).write(self.copy_for_people)

    @property
    def copy_for_people(self) -> bytes:
        """Without a key that is the output's own: a plan is handed around."""
        return json.dumps(self.model_dump(mode="json", exclude={"key": {"kept"}})).encode()

    @classmethod
    def read(cls, output: Location) -> "Plan":
        """Read the plan of an output.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged, or of another version.
        """
        found = manifest.read_metadata(output)
        text = found.get("plan")
        if text is None or hashlib.sha256(text.encode()).hexdigest() != found.get("sha256"):
            raise ValueError(f"{output / manifest.NAME} holds no plan, or a damaged one: {_WAYS_OUT}")
        if (layout := json.loads(text).get("layout")) != LAYOUT:
            raise ValueError(f"output {output} has the layout {layout}, this version writes {LAYOUT}: {_WAYS_OUT}")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"output {output} holds a plan of another version: {_WAYS_OUT}") from error


def make_plan(
    entries: Sequence[Entry],
    *,
    cohort: CohortConfig,
    model: ModelConfig,
    weights_digest: str,
    explainers: Sequence[ExplainerConfig],
    target: TargetConfig,
    batch_size: int,
    precision: Precision = "fp32",
    segments: bool,
    key: Key,
) -> Plan:
    """Cut `entries`, in their order, into shards; their size depends on the work alone, never on the workers."""
    maps = sum(explainer.makes_map for explainer in explainers) * len(target.labels(model.classes))
    size = images_per_shard(len(entries), max(maps, model.channels) * math.prod(model.input_shape) * 4)
    wanted = cohort.background if any(explainer.needs_background for explainer in explainers) else 0
    return Plan(
        images_per_shard=size,
        shards=cut(entries, size, batch_size),
        cohort=cohort,
        model=model.model_copy(update={"sha256": weights_digest}),
        explainers=tuple(explainers),
        together=(len(explainers),),
        target=target,
        batch_size=batch_size,
        precision=precision,
        masks=any(entry.mask for entry in entries),
        segments=segments,
        background=spread(entries, wanted),
        key=key,
        versions=versions(),
    )


def begun(output: Location) -> bool:
    """Tell whether a run was begun."""
    return (output / manifest.NAME).exists()


def versions() -> dict[str, str]:
    packages = ("cohortlens", "torch", "monai", "zarr", "xarray", "numpy", "pydicom", "nibabel", "pillow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
