"""The plan: the ordered images cut into shards, and everything else that fixes what a run computes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import ConfigurationError
from models.explainers.base import Explainer
from models.network import Precision
from models.outputs import Channels, Frame, Output, joined
from models.precision import Deviation
from models.targets import TargetConfig
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry
from tasks.cohort.pseudonyms import Key
from tasks.plan import manifest
from tasks.plan.planned import Part, PlannedFit, PlannedMetric, PlannedResult, PlannedUncertainty
from tasks.plan.recipe import ModelConfig, Recipe
from tasks.plan.shards import Shards, digest_of
from tasks.storage.location import Location

NAME = "plan.json"
LAYOUT = 9

_WAYS_OUT = "name another output, or put this one out of the way with --overwrite"


class Plan(BaseModel):
    """The promise of a run. The store is a function of the plan, the manifest and the images alone.

    Attributes
    ----------
    grid
        Sides of the images as they are explained, in the order of `cohort.axes`; the network takes one window of them
        at once.
    parts
        Explainers that are asked together, with what they deliver; each is a part of every shard.
    fits, metrics, uncertainty, results
        What is computed before the shards, from what is stored of each, and over all of them.
    withdrawn
        Digests of the subjects that were withdrawn and must not come back.
    run_id
        Name of the run that drew up the plan.
    deviation
        By explainer, how far bf16 is from fp32 in the maps of the first batch.
    masks, segments
        Whether any image has a mask; whether the model returns a map for each class.
    key
        The key of the pseudonyms in the manifest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: int = LAYOUT
    shards: Shards
    cohort: CohortConfig
    model: ModelConfig
    target: TargetConfig
    batch_size: int
    precision: Precision = "fp32"
    channels: Channels = "combine"
    deviation: dict[str, Deviation] = {}
    grid: tuple[int, ...]
    masks: bool
    segments: bool
    parts: tuple[Part, ...]
    fits: tuple[PlannedFit, ...] = ()
    metrics: tuple[PlannedMetric, ...] = ()
    uncertainty: tuple[PlannedUncertainty, ...] = ()
    results: tuple[PlannedResult, ...] = ()
    key: Key
    withdrawn: tuple[str, ...] = ()
    versions: dict[str, str]
    run_id: str = ""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]  # what was worked out of the fields as they were
        return copied

    @property
    def images(self) -> int:
        return self.shards.images

    @property
    def images_per_shard(self) -> int:
        return self.shards.size

    @property
    def images_at_once(self) -> int:
        """Images in a batch: as many as have `batch_size` windows together, at least one."""
        return self.model.tiles.at_once(self.batch_size)

    @cached_property
    def explainers(self) -> tuple[Explainer, ...]:
        return tuple(explainer for part in self.parts for explainer in part.explainers)

    @cached_property
    def maps(self) -> tuple[str, ...]:
        """Names of the explainers that make a map."""
        return tuple(name for part in self.parts for name in part.maps)

    @property
    def evaluated(self) -> tuple[PlannedMetric | PlannedUncertainty, ...]:
        """The metrics and kinds of uncertainty, which are computed from the stored shards."""
        return (*self.metrics, *self.uncertainty)

    @cached_property
    def frame(self) -> Frame:
        """The common dimensions of all outputs."""
        return frame_of(self, self.maps, segments=self.segments, masks=self.masks)

    @cached_property
    def outputs(self) -> dict[str, Output]:
        """Everything that is stored beside coordinates and index, by name."""
        planned = (*self.parts, *self.fits, *self.evaluated, *self.results)
        return joined(*(one.outputs for one in planned))

    @property
    def concepts(self) -> frozenset[str]:
        """The names that labels may hold beside those of classes."""
        named = {name for planned in self.results for name in planned.result.names_in_labels}
        return frozenset(named - {*self.model.classes})

    def part_with(self, name: str) -> int:
        """Find the part that delivers an output."""
        return next(number for number, part in enumerate(self.parts) if part.holds(name))

    @property
    def fitted(self) -> bool:
        """True if every artefact has been computed."""
        return all(fit.objects for fit in self.fits)

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the result."""
        return digest_of(self.model_dump(mode="json", exclude={"versions", "run_id", "withdrawn", "key", "deviation"}))

    @property
    def deciding_cohort(self) -> dict[str, Any]:
        """The fields of the cohort that decide what an image is beside its files."""
        fields = {"preprocessing", "axes", "window", "color", "frames", "slides", "mask", "align", "record"}
        return self.cohort.model_dump(mode="json", include=fields) | {"sequences": self.cohort.sequence_names}

    @property
    def deciding_model(self) -> dict[str, Any]:
        """The fields of the model that decide values; where its files lie does not."""
        places: Any = {"weights": True, "head": {"weights"}, "reference": {"weights"}}
        return self.model.model_dump(mode="json", exclude=places)

    @cached_property
    def part_digests(self) -> tuple[str, ...]:
        """By part, a digest over all that decides it in a shard beside the images."""
        common = {
            **self.model_dump(mode="json", include={"layout", "target", "batch_size"}),
            "images_per_shard": self.images_per_shard,
            **self.model_dump(mode="json", include={"grid", "masks", "segments", "precision", "channels"}),
            "model": self.deciding_model,
            "cohort": self.deciding_cohort,
        }
        return tuple(
            digest_of(common | {"explainers": [explainer.deciding for explainer in part.explainers]})
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
        ConfigurationError
            If it is damaged, or of another version.
        """
        text = _stored(output)
        if (layout := json.loads(text).get("layout")) != LAYOUT:
            raise ConfigurationError(
                f"output {output} has the layout {layout}, this version writes {LAYOUT}: {_WAYS_OUT}"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigurationError(f"output {output} holds a plan of another version: {_WAYS_OUT}") from error


class Lasting(BaseModel):
    """The parts of a plan that outlive an overwritten run: what was withdrawn, and the key of its pseudonyms."""

    model_config = ConfigDict(frozen=True)

    withdrawn: tuple[str, ...] = ()
    key: Key | None = None

    @classmethod
    def read(cls, output: Location) -> "Lasting":
        """Read it from a plan of any layout.

        Raises
        ------
        ConfigurationError
            If the plan has it in a form that this version does not know.
        """
        try:
            text = _stored(output)
        except ConfigurationError:
            return cls()  # a damaged plan tells nothing
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigurationError(
                f"output {output} holds a list of what was withdrawn that this version cannot read, and which would be "
                "lost: name another output"
            ) from error


def _stored(output: Location) -> str:
    found = manifest.read_metadata(output)
    text = found.get("plan")
    if text is None or hashlib.sha256(text.encode()).hexdigest() != found.get("sha256"):
        raise ConfigurationError(f"{output / manifest.NAME} holds no plan, or a damaged one: {_WAYS_OUT}")
    return text


def frame_of(of: "Recipe | Plan", maps: tuple[str, ...], *, segments: bool, masks: bool) -> Frame:
    """Collect the common dimensions of a run's outputs."""
    model = of.model
    return Frame(
        classes=model.classes,
        targets=tuple(of.target.labels(model.classes)),
        explainers=maps,
        channels=of.cohort.channel_names(model.channels),
        grid=model.grid,
        activation=model.activation,
        segments=segments,
        masks=masks,
        axes=of.cohort.axes,
        keeps_channels=of.channels == "keep",
        fields=tuple(field.name for field in of.cohort.record),
        covariates=of.cohort.covariates,
    )


def begun(output: Location) -> bool:
    """Tell whether a run was begun."""
    return (output / manifest.NAME).exists()
