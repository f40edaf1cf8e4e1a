"""Stores that are made of arrays, declared as a run declares them, with the page beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from models.explainers.saliency import Saliency
from models.outputs import TEXT, Frame, Output
from models.prediction import declare_prediction, declare_source
from tasks.plan.plan import LAYOUT
from tasks.storage.location import Location
from tasks.store.objects import NAME
from tasks.store.scales import reaches_of
from tasks.store.template import EXPLAINED, STATUS
from tasks.viewer.page import write_page
from tasks.viewer.scales import write_scales

Arrays = Mapping[str, NDArray[Any]]


def frame_of(image: NDArray[np.floating], channels: tuple[str, ...], explainers: tuple[str, ...]) -> Frame:
    return Frame(
        classes=("a", "b"),
        targets=("b",),
        explainers=explainers,
        channels=channels,
        grid=image.shape[2:],
        activation="softmax",
        masks=True,
        keeps_channels=len(channels) > 1,
    )


def write_store(
    folder: Path,
    arrays: Arrays,
    channels: tuple[str, ...] = ("0",),
    shared: bool = True,
    more: Sequence[Output] = (),
) -> None:
    """Write a store of some images, ``(image, ...)`` each, with fill values for what is not given.

    Parameters
    ----------
    shared
        Whether the scales of the cohort are written, too.
    more
        Outputs beside those of an image, its prediction and its maps.
    """
    explainers = tuple(f"map{at}" for at in range(arrays["attribution"].shape[2]))
    frame = frame_of(arrays["image"], channels, explainers)
    count = len(arrays["image"])
    outputs = [*declare_source(frame), *declare_prediction(frame), *Saliency().declare(frame, None), *more]  # type: ignore[arg-type]
    axes = (axis for output in more for axis in output.axes)
    names = _names(frame) | {axis.name: axis.labels for axis in axes if isinstance(axis.labels, tuple)}
    dataset = xr.Dataset(
        {output.name: _variable(output, frame, arrays, count) for output in outputs},
        coords={name: _labels(of) for name, of in {**names, "image_id": [f"case-{n}" for n in range(count)]}.items()},
        attrs={"layout": LAYOUT, "source": "cohortlens"}
        | {f"{name}_names": list(of) for name, of in names.items() if isinstance(of[0], str)},
    )
    about = {"flag_values": np.arange(len(STATUS), dtype=np.int8), "flag_meanings": " ".join(STATUS)}
    dataset["status"] = ("image_id", np.full(count, EXPLAINED, np.int8), about)
    dataset["label"] = ("image_id", np.array(["b"] * count, TEXT))
    encoding = {
        output.name: {
            "chunks": (1, *dataset[output.name].shape[1:]),
            **(
                {}
                if output.dtype == "string"
                else {"compressors": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")]}
            ),
            "fill_value": output.fill_value,
        }
        for output in outputs
    }
    folder.mkdir(parents=True, exist_ok=True)
    dataset.to_zarr(folder / NAME, zarr_format=3, encoding=encoding, write_empty_chunks=True)
    output = Location(url=str(folder))
    write_page(output)
    if shared:
        write_scales(output, reaches_of(dataset, outputs))


def _labels(of: Sequence[str | float]) -> NDArray[Any]:
    return np.array(of, float if isinstance(of[0], float) else TEXT)


def _names(frame: Frame) -> dict[str, tuple[Any, ...]]:
    return {
        "class": frame.classes,
        "target": frame.targets,
        "explainer": frame.explainers,
        "channel": frame.channels,
        "world": tuple("RAS1"),
        "voxel": frame.voxel,
    }


def _variable(
    output: Output, frame: Frame, arrays: Arrays, count: int
) -> tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]:
    sizes = frame.sizes | {axis.name: axis.size for axis in output.axes if axis.name not in frame.sizes}
    shape = (count, *(sizes[dim] for dim in output.own_dims))
    given = arrays.get(output.name)
    values = np.full(shape, output.fill_value, output.array_type) if given is None else np.broadcast_to(given, shape)
    return output.dims, values.astype(output.array_type), output.cf_attrs
