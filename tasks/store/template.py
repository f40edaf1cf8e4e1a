"""The store: one flat xarray Dataset in Zarr format 3. It is the public interface.

xarray writes the template and reads. Workers write whole objects: `tasks.store.objects`.
"""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from models.errors import ConfigurationError
from models.outputs import COVARIATE, EXPLAINER, Axis
from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import packed
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.encoding import compression
from tasks.store.objects import NAME
from tasks.store.variables import layout, variables

PENDING, EXPLAINED, QUARANTINED, FAILED, WITHDRAWN = range(5)
STATUS = ("pending", "explained", "quarantined", "failed", "withdrawn")

_ROOT = "zarr.json"
_INDEX = ("status", "shard", "present")
_OF_TABLE = ("label", "covariate_value")
_INDEX_CHUNK = 2**16
"""The chunk of arrays that have one small value an image. It stays the same as images are added, so that a reader who
opened the store before is not led astray."""


def check_names(plan: Plan) -> None:
    """Check that nothing in the store has the name of anything else.

    Raises
    ------
    ConfigurationError
        If an output has the name of another, of a coordinate or of a column of the index, or a dimension is declared
        in two ways.
    """
    outputs, frame = plan.outputs.values(), plan.frame
    axes = [axis for output in outputs for axis in output.axes if axis.name not in frame.sizes]
    dimensions: dict[str, Axis] = {}
    taken = {*_coordinates(plan, ()), *frame.space, *_INDEX, *_OF_TABLE, _ROOT} & plan.outputs.keys()
    taken |= {axis.name for axis in axes if dimensions.setdefault(axis.name, axis).labels != axis.labels}
    if taken:
        raise ConfigurationError(
            f"the store has two things of the name {min(taken)!r}: give the one that makes it another `label`"
        )


def set_up(output: Location, plan: Plan, entries: Sequence[Entry]) -> None:
    """Write the metadata and the known coordinates, if they are not there; no data.

    What readers go by, the index and the consolidated metadata, stays as it was until `publish`.
    """
    there = (output / NAME / _ROOT).exists()
    objects = template(plan, entries, np.zeros(len(entries), np.int8))
    kept = {key for key in objects if there and (key == _ROOT or key.split("/")[0] in _INDEX)}
    _write_changed(output, {key: data for key, data in objects.items() if key not in kept})


def publish(output: Location, plan: Plan, entries: Sequence[Entry], status: NDArray[np.int8]) -> None:
    """Write the per-image index and the consolidated metadata: the last thing a run does to the store."""
    _write_changed(output, template(plan, entries, status))


def _write_changed(output: Location, objects: Mapping[str, bytes]) -> None:
    """Write what differs from what is there; the root last, since readers begin with it."""
    keys = sorted(objects, key=lambda key: (key == _ROOT, key))
    there = output.read_all([(output / NAME / key).url for key in keys])
    for key, data in zip(keys, there, strict=True):
        if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
            raise data
        if data != objects[key]:
            (output / NAME / key).write(objects[key])


def template(plan: Plan, entries: Sequence[Entry], status: NDArray[np.int8]) -> dict[str, bytes]:
    """Make all objects of a finished store but those that are computed: metadata, coordinates, index; by key."""
    described = variables(plan, plan.outputs.values())
    encoding: dict[str, dict[str, Any]] = {}
    data = {}
    for name, variable in described.items():
        output, (shape, chunk) = variable.output, layout(plan, variable)
        sides = (len(entries), *variable.shape) if output.per_image else variable.shape
        empty = da.full(sides, output.fill_value, dtype=variable.dtype, chunks=-1)
        data[name] = (output.dims, empty, output.cf_attrs)
        encoding[name] = {
            "fill_value": output.fill_value,
            "compressors": [BloscCodec(**compression(variable.dtype)._asdict())],
            "chunks": chunk or shape,
            **({"shards": shape} if chunk else {}),
        }
    coordinates = _coordinates(plan, entries)
    # Without indexes: that of the images would hold each id once more, as an object.
    without_indexes = xr.Coordinates(coordinates, indexes={})
    dataset = xr.Dataset(data, coords=without_indexes, attrs={**_attributes(plan), **_names(coordinates)})
    dataset["label"] = (
        "image_id",
        _strings(label or "" for label in packed(entries).columns("label")),
        {"long_name": "reference label; empty where unknown", "units": "1"},
    )
    if names := plan.frame.covariates:
        blank = ("",) * len(names)
        dataset["covariate_value"] = (
            ("image_id", COVARIATE),
            _strings(chain.from_iterable(words or blank for words in packed(entries).columns("covariates"))).reshape(
                -1, len(names)
            ),
            {"long_name": "what the cohort table says of the image; empty where unknown", "units": "1"},
        )
    for name, values in _index(plan, entries, status).items():
        dataset[name] = values
        encoding[name] = {"fill_value": -1 if name == "shard" else 0}
    for other in dataset.variables.keys() - described.keys():
        encoding.setdefault(str(other), {})["chunks"] = (_INDEX_CHUNK, *dataset[other].shape[1:])
    written: dict[str, Buffer] = {}
    memory = MemoryStore(written)
    with warnings.catch_warnings():
        # zarr warns that consolidated metadata is not yet in the specification; readers without it ignore it.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        dataset.to_zarr(memory, zarr_format=3, compute=False, encoding=encoding, write_empty_chunks=True)
    return {key: buffer.to_bytes() for key, buffer in written.items()}


def open_store(output: Location) -> xr.Dataset:
    """Open the explanations for reading, with lazy arrays.

    They are not Dask's, which would have a task for every picture of the cohort, whatever is read of it.
    """
    location = output / NAME
    return xr.open_zarr(location.url, chunks=None, storage_options=location.storage_options or None)


def _coordinates(plan: Plan, entries: Sequence[Entry]) -> dict[str, Any]:
    frame = plan.frame
    named = {
        "image_id": (packed(entries).columns("id"), "image", "1"),
        "channel": (frame.channels, "channel of the image", "1"),
        "class": (frame.classes, "class", "1"),
        "target": (frame.targets, "explained output", "1"),
        "world": ("RAS1", "axis towards right, anterior, superior", "mm"),
        "voxel": (frame.voxel, "axis of the voxel index", "1"),
        **({EXPLAINER: (frame.explainers, "explainer", "1")} if frame.explainers else {}),
        **({COVARIATE: (frame.covariates, "column of the cohort table", "1")} if frame.covariates else {}),
    }
    axes = {axis.name: axis for output in plan.outputs.values() for axis in output.axes if axis.name not in named}
    return {
        **{
            name: (name, _strings(of), {"long_name": about, "units": unit}) for name, (of, about, unit) in named.items()
        },
        **{name: (name, _labels(axis), {"long_name": axis.long_name, "units": "1"}) for name, axis in axes.items()},
    }


def _names(coordinates: Mapping[str, Any]) -> dict[str, list[str]]:
    """Repeat the names along each dimension but the images' as attributes: some readers of Zarr know no strings."""
    return {
        f"{name}_names": values.tolist()
        for name, (_, values, _) in coordinates.items()
        if name != "image_id" and values.dtype.kind == "T"
    }


def _labels(axis: Axis) -> NDArray[Any]:
    if isinstance(axis.labels, int):
        return np.arange(axis.labels)
    if all(isinstance(label, float) for label in axis.labels):
        return np.array(axis.labels)
    return _strings(list(map(str, axis.labels)))


def _index(plan: Plan, entries: Sequence[Entry], status: NDArray[np.int8]) -> dict[str, Any]:
    shard = np.repeat(np.arange(len(plan.shards), dtype=np.int32), [shard.images for shard in plan.shards])
    return {
        "status": (
            "image_id",
            status,
            {
                "long_name": "what became of the image",
                "units": "1",
                "flag_values": np.arange(len(STATUS), dtype=np.int8),
                "flag_meanings": " ".join(STATUS),
            },
        ),
        "shard": (
            "image_id",
            np.where(status == PENDING, np.int32(-1), shard),
            {"long_name": "shard whose commit delivered the image", "units": "1"},
        ),
        "present": (
            "image_id",
            np.fromiter(packed(entries).columns("present"), np.int8, len(entries)),
            {
                "long_name": "whether the image was in the cohort at the last run",
                "units": "1",
                "flag_values": np.array([0, 1], np.int8),
                "flag_meanings": "vanished present",
            },
        ),
    }


def _attributes(plan: Plan) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.12",
        "title": "Attribution maps of a cohort",
        "comment": plan.cohort.description,
        "source": f"cohortlens {plan.versions['cohortlens']}",
        "layout": plan.layout,
        "run_id": plan.run_id,
        "plan_digest": plan.digest,
        "model": json.dumps(plan.model.network),
        "model_digest": " ".join(f"sha256:{digest}" for digest in _digests(plan)),
        "explainers": json.dumps([explainer.model_dump(mode="json") for explainer in plan.explainers]),
        "target": json.dumps(plan.target.model_dump(mode="json")),
        "preprocessing": json.dumps(plan.cohort.preprocessing),
        **({"record": json.dumps([field.model_dump() for field in plan.cohort.record])} if plan.cohort.record else {}),
        "versions": json.dumps(plan.versions),
        **(
            {}
            if plan.precision == "fp32"
            else {
                "precision": plan.precision,
                "deviation_from_fp32": json.dumps({name: one.model_dump() for name, one in plan.deviation.items()}),
            }
        ),
    }


def _digests(plan: Plan) -> tuple[str | None, ...]:
    """The digests of the model's files, folds in their order."""
    model = plan.model
    weights = model.sha256 if isinstance(model.sha256, tuple) else (model.sha256,)
    return (*weights, *(head.sha256 for head in (model.head, model.reference) if head))


def _strings(values: Iterable[str]) -> NDArray[Any]:
    """Make an array of strings without a list of them all."""
    left, kind = iter(values), np.dtypes.StringDType()
    parts = [np.array(part, kind) for part in iter(lambda: list(islice(left, _INDEX_CHUNK)), [])]
    return np.concatenate(parts) if parts else np.array([], kind)
