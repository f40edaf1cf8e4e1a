"""The store: one flat xarray Dataset in Zarr format 3. It is the public interface.

xarray writes the template and reads. Workers write whole shard objects, which nobody else writes a part of.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from models.uncertainty import Uncertainty
from tasks.cohort.entry import Entry
from tasks.plan.plan import Measure, Plan
from tasks.plan.shards import Shard, object_rows
from tasks.storage.location import Location
from tasks.store.commit import STAGED, Part, StoredObject
from tasks.store.encoding import LEVEL, decode_chunk, decode_shard, encode_chunk, encode_shard, pad
from tasks.store.variables import MANTISSA_KEPT, Variable, empty_block, measured_variables, part_variables, variables

NAME = "explanations.zarr"

PENDING, EXPLAINED, QUARANTINED, FAILED, WITHDRAWN = range(5)
STATUS = ("pending", "explained", "quarantined", "failed", "withdrawn")

_ROOT = "zarr.json"
_INDEX = ("status", "shard", "present")
_INDEX_CHUNK = 2**16
"""Of what has one small value an image. It stays the same as images are added, so that a reader who opened the store
before is not led astray."""

Block = dict[str, NDArray[Any]]


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


def write_part(
    output: Location, plan: Plan, shard: Shard, part: int, block: Block, staged: bool
) -> dict[str, StoredObject]:
    """Store one part of a shard, every object whole; return what was stored, by key.

    Parameters
    ----------
    block
        By variable: the shard's rows of it.
    staged
        Whether it is put beside the store, where it waits until `tasks.store.commit.settle`.
    """
    return _write(output / (STAGED if staged else NAME), _pieces(plan, shard, part), block)


def write_measured(
    output: Location, plan: Plan, shard: Shard, measure: Measure | Uncertainty, block: Block
) -> dict[str, StoredObject]:
    """Store what was worked out of a shard, every object whole; return what was stored, by key."""
    return _write(output / NAME, _measured_pieces(plan, shard, [measure]), block)


def part_keys(plan: Plan, shard: Shard, part: int) -> list[str]:
    """Keys of the objects that one part of a shard delivers."""
    return [piece.key for piece in _pieces(plan, shard, part)]


def measured_keys(plan: Plan, shard: Shard) -> list[str]:
    """Keys of the objects that hold what was worked out of a shard."""
    return [piece.key for piece in _measured_pieces(plan, shard, plan.measures)]


def read_part(output: Location, plan: Plan, shard: Shard, part: int, promised: Part, rows: int) -> Block | None:
    """Read the first rows of what a commit says is stored; None if anything of it is missing or damaged."""
    keys = part_keys(plan, shard, part)
    objects: dict[str, bytes] = {}
    for key, data in zip(keys, output.read_all([(output / NAME / key).url for key in keys]), strict=True):
        if isinstance(data, Exception):
            if isinstance(data, FileNotFoundError):
                return None
            raise data
        if key not in promised.objects or hashlib.sha256(data).hexdigest() != promised.objects[key].sha256:
            return None
        objects[key] = data
    return assemble(plan, shard, part, objects, rows)


def assemble(plan: Plan, shard: Shard, part: int, objects: Mapping[str, bytes], rows: int) -> Block:
    """Put the stored objects of a part together: the first rows of each variable."""
    block = empty_block(part_variables(plan, part), rows)
    for piece in _pieces(plan, shard, part):
        data, dtype = objects[piece.key], piece.variable.dtype
        stored = (
            decode_shard(data, piece.shape, piece.chunk, dtype)
            if piece.chunk
            else decode_chunk(data, piece.shape, dtype)
        )
        block[piece.name][:, *piece.within] = stored[:rows, *(slice(at.stop - at.start) for at in piece.within)]
    return block


class _Piece(NamedTuple):
    """An object: the variable it is of, its place in the shard's block, and the shapes of object and chunk."""

    name: str
    variable: Variable
    key: str
    within: tuple[slice, ...]
    shape: tuple[int, ...]
    chunk: tuple[int, ...] | None


def _pieces(plan: Plan, shard: Shard, part: int) -> Iterator[_Piece]:
    first = sum(explainer.makes_map for before in plan.parts[:part] for explainer in before)
    for name, variable in part_variables(plan, part).items():
        yield from _cut(shard, name, variable, *layout(plan, variable), first)


def _measured_pieces(plan: Plan, shard: Shard, measures: Sequence[Measure | Uncertainty]) -> Iterator[_Piece]:
    for name, variable in measured_variables(plan, measures).items():
        yield from _cut(shard, name, variable, *_measured_layout(plan, variable))


def _cut(
    shard: Shard, name: str, variable: Variable, shape: tuple[int, ...], chunk: tuple[int, ...] | None, first: int = 0
) -> Iterator[_Piece]:
    """Cut a variable of a shard into objects; `first` is the place of its first explainer in the store."""
    counts = [-(-size // cut) for size, cut in zip(variable.shape, shape[1:], strict=True)]
    for place in product(*map(range, counts)):
        within = tuple(
            slice(at * cut, min((at + 1) * cut, size))
            for at, cut, size in zip(place, shape[1:], variable.shape, strict=True)
        )
        where = [at + first * (dim == "explainer") for at, dim in zip(place, variable.dims, strict=True)]
        yield _Piece(name, variable, "/".join([name, "c", str(shard.index), *map(str, where)]), within, shape, chunk)


def _write(folder: Location, pieces: Iterable[_Piece], block: Block) -> dict[str, StoredObject]:
    objects: dict[str, StoredObject] = {}
    for name, variable, key, within, shape, chunk in pieces:
        values = block[name][:, *within]
        whole = pad(round_mantissa(values) if name.startswith("attribution") else values, shape, variable.fill)
        data = encode_shard(whole, chunk) if chunk else encode_chunk(whole)
        (folder / key).write(data)
        objects[key] = StoredObject(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return objects


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
    """Make all objects of a finished store but those that shards deliver: metadata, coordinates, index; by key."""
    measured = measured_variables(plan, plan.measures)
    described = variables(plan) | measured
    encoding: dict[str, dict[str, Any]] = {}
    data = {}
    for name, variable in described.items():
        empty = da.full((len(entries), *variable.shape), variable.fill, dtype=variable.dtype, chunks=-1)
        data[name] = (("image_id", *variable.dims), empty, variable.attrs)
        shape, chunk = _measured_layout(plan, variable) if name in measured else layout(plan, variable)
        encoding[name] = {
            "fill_value": variable.fill,
            "compressors": [BloscCodec(cname="zstd", clevel=LEVEL, shuffle="shuffle")],
            "chunks": chunk or shape,
            **({"shards": shape} if chunk else {}),
        }
    dataset = xr.Dataset(data, coords=_coordinates(plan, entries), attrs=_attributes(plan))
    dataset["label"] = (
        "image_id",
        _strings([entry.label or "" for entry in entries]),
        {"long_name": "reference label; empty where unknown", "units": "1"},
    )
    for name, values in _index(plan, entries, status).items():
        dataset[name] = values
        encoding[name] = {"fill_value": -1 if name == "shard" else 0}
    for other in dataset.variables.keys() - described.keys():
        encoding.setdefault(str(other), {})["chunks"] = (_INDEX_CHUNK,)
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


def round_mantissa(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round float32 to 7 bits of mantissa, half to even; a relative error of at most 2**-8.

    Maps are noise below that; rounded, they compress like 16 bits while every reader still sees float32.
    """
    bits = values.astype(np.float32).view(np.uint32)
    dropped = np.uint32(23 - MANTISSA_KEPT)
    half = np.uint32((1 << (int(dropped) - 1)) - 1) + ((bits >> dropped) & np.uint32(1))
    rounded = ((bits + half) >> dropped << dropped).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def layout(plan: Plan, variable: Variable) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The shape of an object, and of the chunks in it: one picture or volume each; None for small variables.

    An object's shape is cut so that it stays under the limit, and holds whole chunks. It holds one explainer alone, so
    that others can be added beside it.
    """
    itemsize = np.dtype(variable.dtype).itemsize
    alone = (1 if dim == "explainer" else size for dim, size in zip(variable.dims, variable.shape, strict=True))
    shape = object_rows((plan.images_per_shard, *alone), itemsize)
    spatial = [dim in ("z", "y", "x") for dim in variable.dims]
    if not any(spatial):
        return shape, None
    return shape, (1, *(size if is_space else 1 for size, is_space in zip(shape[1:], spatial, strict=True)))


def _measured_layout(plan: Plan, variable: Variable) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """As `layout`; but a small variable is one object a shard: all of it is worked out at once."""
    shape, chunk = layout(plan, variable)
    return (shape, chunk) if chunk else ((plan.images_per_shard, *variable.shape), None)


def _coordinates(plan: Plan, entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "image_id": ("image_id", _strings([entry.id for entry in entries]), {"long_name": "image", "units": "1"}),
        "class": ("class", _strings(plan.model.classes), {"long_name": "class", "units": "1"}),
        "target": (
            "target",
            _strings(plan.target.labels(plan.model.classes)),
            {"long_name": "explained output", "units": "1"},
        ),
        "world": ("world", _strings("RAS1"), {"long_name": "axis towards right, anterior, superior", "units": "mm"}),
        "voxel": ("voxel", _strings("zyx1"), {"long_name": "axis of the voxel index", "units": "1"}),
        **{
            measure.axis: (
                measure.axis,
                np.array(measure.points) if _are_numbers(measure.points) else _strings(list(map(str, measure.points))),
                {"long_name": f"point of the curves of {measure.metric.title}", "units": "1"},
            )
            for measure in plan.metrics
            if measure.curves
        },
        **(
            {"explainer": ("explainer", _strings(plan.maps), {"long_name": "explainer", "units": "1"})}
            if plan.maps
            else {}
        ),
    }


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
            np.array([entry.present for entry in entries], np.int8),
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
        "model_digest": f"sha256:{plan.model.sha256}",
        "explainers": json.dumps([explainer.model_dump(mode="json") for explainer in plan.explainers]),
        "target": json.dumps(plan.target.model_dump(mode="json")),
        "preprocessing": json.dumps(plan.cohort.preprocessing),
        "versions": json.dumps(plan.versions),
        **(
            {}
            if plan.precision == "fp32"
            else {
                "precision": plan.precision,
                "agreement_with_fp32": json.dumps({name: one.model_dump() for name, one in plan.agreement.items()}),
            }
        ),
    }


def _are_numbers(points: Sequence[float] | Sequence[str]) -> bool:
    return all(isinstance(point, float) for point in points)


def _strings(values: Sequence[str]) -> NDArray[Any]:
    return np.array(list(values), dtype=np.dtypes.StringDType())
