"""The store: one flat xarray Dataset in Zarr format 3. It is the public interface.

xarray writes the template and reads. Workers write whole shard objects, which nobody else writes a part of.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from tasks.commit import StoredObject
from tasks.encoding import LEVEL, encode_chunk, encode_shard, pad
from tasks.manifest import Entry
from tasks.plan import Plan, Shard, object_rows
from tasks.storage import Location
from tasks.variables import MANTISSA_KEPT, Variable, variables

NAME = "explanations.zarr"

PENDING, EXPLAINED, QUARANTINED, FAILED = range(4)
STATUS = ("pending", "explained", "quarantined", "failed")


def set_up(output: Location, plan: Plan, entries: Sequence[Entry], run_id: str) -> None:
    """Write the metadata and the known coordinates; no data."""
    described = variables(plan)
    data = {
        name: (("image_id", *variable.dims), _lazy((len(entries), *variable.shape), variable), variable.attrs)
        for name, variable in described.items()
    }
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in described.items():
        shape, chunk = layout(plan, variable)
        encoding[name] = {
            "fill_value": variable.fill,
            "compressors": [BloscCodec(cname="zstd", clevel=LEVEL, shuffle="shuffle")],
            "chunks": chunk or shape,
            **({"shards": shape} if chunk else {}),
        }
    dataset = xr.Dataset(data, coords=_coordinates(plan, entries), attrs=_attributes(plan, run_id))
    dataset["label"] = (
        "image_id",
        _strings([entry.label or "" for entry in entries]),
        {"long_name": "reference label; empty where unknown", "units": "1"},
    )
    for name, values in _index(len(entries)).items():
        dataset[name] = values
        encoding[name] = {"fill_value": 0 if name == "status" else -1}
    location = output / NAME
    dataset.to_zarr(
        location.url,
        mode="w",
        zarr_format=3,
        compute=False,
        consolidated=False,
        encoding=encoding,
        storage_options=location.storage_options or None,
    )


def write_index(output: Location, status: NDArray[np.int8], shard: NDArray[np.int32]) -> None:
    """Write the per-image index and consolidate the metadata: the last thing a run does to the store."""
    group = _group(output, mode="r+")
    for name, values in (("status", status), ("shard", shard)):
        array = group[name]
        assert isinstance(array, zarr.Array)
        array[:] = values
    with warnings.catch_warnings():
        # zarr warns that consolidated metadata is not yet in the specification; readers without it ignore it.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(group.store)


def write_shard(
    output: Location, plan: Plan, shard: Shard, block: Mapping[str, NDArray[Any]]
) -> dict[str, StoredObject]:
    """Store the rows of one shard, every object whole; return what was stored, by key."""
    objects: dict[str, StoredObject] = {}
    for name, variable in variables(plan).items():
        values = round_mantissa(block[name]) if name == "attribution" else block[name]
        shape, chunk = layout(plan, variable)
        counts = [-(-size // part) for size, part in zip(variable.shape, shape[1:], strict=True)]
        for place in product(*map(range, counts)):
            within = tuple(slice(at * part, (at + 1) * part) for at, part in zip(place, shape[1:], strict=True))
            whole = pad(values[:, *within], shape, variable.fill)
            data = encode_shard(whole, chunk) if chunk else encode_chunk(whole)
            key = "/".join([name, "c", str(shard.index), *map(str, place)])
            (output / NAME / key).write(data)
            objects[key] = StoredObject(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return objects


def open_store(output: Location) -> xr.Dataset:
    """Open the explanations for reading, with lazy arrays."""
    location = output / NAME
    return xr.open_zarr(location.url, storage_options=location.storage_options or None)


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

    An object's shape is cut so that it stays under the limit, and holds whole chunks.
    """
    itemsize = np.dtype(variable.dtype).itemsize
    shape = object_rows((plan.images_per_shard, *variable.shape), itemsize)
    spatial = [dim in ("z", "y", "x") for dim in variable.dims]
    if not any(spatial):
        return shape, None
    return shape, (1, *(size if is_space else 1 for size, is_space in zip(shape[1:], spatial, strict=True)))


def _lazy(shape: tuple[int, ...], variable: Variable) -> da.Array:
    return da.full(shape, variable.fill, dtype=variable.dtype, chunks=-1)


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
        **(
            {"explainer": ("explainer", _strings(plan.maps), {"long_name": "explainer", "units": "1"})}
            if plan.maps
            else {}
        ),
    }


def _index(images: int) -> dict[str, Any]:
    return {
        "status": (
            "image_id",
            da.zeros(images, dtype="int8", chunks=-1),
            {
                "long_name": "what became of the image",
                "units": "1",
                "flag_values": np.arange(len(STATUS), dtype=np.int8),
                "flag_meanings": " ".join(STATUS),
            },
        ),
        "shard": (
            "image_id",
            da.full(images, -1, dtype="int32", chunks=-1),
            {"long_name": "shard whose commit delivered the image", "units": "1"},
        ),
    }


def _attributes(plan: Plan, run_id: str) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.12",
        "title": "Attribution maps of a cohort",
        "comment": plan.cohort.description,
        "source": f"cohortlens {plan.versions['cohortlens']}",
        "layout": plan.layout,
        "run_id": run_id,
        "plan_digest": plan.digest,
        "model": json.dumps(plan.model.network),
        "model_digest": f"sha256:{plan.model.sha256}",
        "explainers": json.dumps([explainer.model_dump(mode="json") for explainer in plan.explainers]),
        "target": json.dumps(plan.target.model_dump(mode="json")),
        "preprocessing": json.dumps(plan.cohort.preprocessing),
        "versions": json.dumps(plan.versions),
    }


def _strings(values: Sequence[str]) -> NDArray[Any]:
    return np.array(list(values), dtype=np.dtypes.StringDType())


def _group(output: Location, mode: Any) -> zarr.Group:
    location = output / NAME
    return zarr.open_group(location.url, mode=mode, storage_options=location.storage_options or None)
