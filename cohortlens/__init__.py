"""cohortlens: explain every image of a medical imaging cohort, and say how far the maps can be trusted.

The public names, for scripts and notebooks; nothing here needs Prefect or a cluster:

>>> import cohortlens
>>> config = cohortlens.load("mine.yaml")        # doctest: +SKIP
>>> cohortlens.plan(config).cost.bytes_stored    # doctest: +SKIP
>>> cohortlens.run(config).explained             # doctest: +SKIP
>>> dataset = cohortlens.open_output("out/mine") # doctest: +SKIP
>>> dataset = cohortlens.explain(module, images) # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike
    from torch import Tensor, nn

    from flows.config import RunConfig
    from models.explainers import Explainer
    from models.targets import Target
    from tasks.prepare.prepare import Prepared
    from tasks.work.finish import Summary

__all__ = ["__version__", "explain", "load", "open_output", "plan", "run", "write_slide_map"]

__version__ = version("cohortlens")


def load(source: "str | PathLike[str] | Mapping[str, Any]") -> "RunConfig":
    """Read and check a configuration: a YAML file, or its content.

    Raises
    ------
    ConfigurationError
        With one line for each wrong field: where it is, what was found and what is allowed.
    """
    from flows.config import check
    from flows.config import load as load_file

    return check(source) if isinstance(source, Mapping) else load_file(Path(source))


def plan(config: "RunConfig", *, extend: bool = False, overwrite: bool = False) -> "Prepared":
    """Say what a configuration would run and what that would cost; nothing is written.

    Parameters
    ----------
    extend
        Whether explainers may be added to those that the output holds.
    overwrite
        Whether a run that the output holds would be deleted first.

    Raises
    ------
    ConfigurationError
        If the run could not be carried out: which field, what was found, what to do.
    """
    from tasks.prepare.place import HERE
    from tasks.prepare.prepare import Before, prepare

    return prepare(config.recipe, HERE, Before.read(config.output, overwrite), extend=extend)


def run(config: "RunConfig", *, extend: bool = False, overwrite: bool = False) -> "Summary":
    """Explain a cohort in this process, without Prefect and Dask; `compute` of the configuration is not used.

    Of an output that is there, only what is new, changed or missing is done. The bytes are those of `cohortlens run`.

    Parameters
    ----------
    extend
        Whether explainers may be added to those that the output holds.
    overwrite
        Whether a run that the output holds is deleted first.

    Raises
    ------
    ConfigurationError
        If the run cannot be carried out, or another run is at work on the output.
    TooManyFailures
        If more images than `cohort.allowed_failures` cannot be explained.
    """
    from tasks.run import run as run_recipe

    return run_recipe(config.recipe, config.output, extend=extend, overwrite=overwrite)


def explain(
    module: "nn.Module",
    images: "Tensor | ArrayLike",
    explainers: "Sequence[str | Mapping[str, Any] | Explainer]" = ("saliency",),
    *,
    classes: Sequence[str] | None = None,
    target: "str | Mapping[str, Any] | Target" = "predicted",
    activation: Literal["softmax", "sigmoid", "identity"] = "softmax",
    output: str | int | None = None,
    outputs: Literal["logits", "probabilities"] = "logits",
    channels: Literal["combine", "keep"] = "combine",
    batch_size: int = 16,
    input_shape: Sequence[int] | None = None,
    windows: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
    masks: "Tensor | ArrayLike | None" = None,
    background: "Tensor | ArrayLike | None" = None,
    record: "Tensor | ArrayLike | None" = None,
    fields: "Sequence[str | Mapping[str, Any]]" = (),
) -> "xr.Dataset":
    """Explain images in memory by a module in memory, of any form; nothing is written.

    The values are those of a run on the same images, before the mantissa of maps is rounded. The module is copied, and
    computes where it is; it stays as it was.

    Parameters
    ----------
    module
        Takes ``(image, channel, *space)``, with a space of two or three axes, and perhaps a record beside.
    images
        ``(image, channel, *space)``, as the module takes them.
    explainers
        Names, mappings with a `name` and parameters, or instances.
    classes
        Names of the outputs; None: their numbers.
    target, activation, output, outputs, channels, batch_size
        The same as ``target``, ``model.activation``, ``model.output``, ``model.outputs``, ``channels`` and
        ``batch_size`` of a configuration.
    input_shape
        Sides of the window that the module takes at once, if the images are larger; None: it takes an image.
    windows
        The fields of ``model.windows`` but for ``image_shape``; None: their defaults.
    ids
        Names of the images, from which random numbers follow; None: their numbers.
    masks
        ``(image, *space)``, for the target `region` of the mask.
    background
        ``(image, channel, *space)`` to compare with, for explainers that do.
    record
        ``(image, field)`` that the module takes as its second argument; None: it takes images alone.
    fields
        Names of the fields, or mappings with a `name` and a `baseline` as in ``cohort.record``; empty: their numbers.

    Returns
    -------
    xr.Dataset
        The arrays of a store that are computed: ``attribution (image_id, target, explainer, *space)``, signed and
        unnormalised, NaN where not computed; ``logit`` and ``probability (image_id, class)``; ``target_class``,
        ``image_flags``, ``map_flags``; and what explainers declare beside, such as ``attribution_channel (image_id,
        target, explainer, channel, *space)`` and ``channel_share`` where channels are kept, or ``attribution_record
        (image_id, target, explainer, field)`` and ``modality_share`` where there are records.

    Raises
    ------
    ConfigurationError
        If the module cannot be copied or explained, or an argument is wrong: which, what was found, what to do.
    """
    from cohortlens.in_memory import explain as explain_in_memory

    single = isinstance(explainers, str | Mapping) or not isinstance(explainers, Sequence)
    arguments = {
        "explainers": (explainers,) if single else tuple(explainers),
        "classes": classes,
        "target": target,
        "activation": activation,
        "output": output,
        "outputs": outputs,
        "channels": channels,
        "fields": tuple(fields),
        "batch_size": batch_size,
        "input_shape": None if input_shape is None else tuple(input_shape),
        "windows": None if windows is None else dict(windows),
    }
    return explain_in_memory(module, images, arguments, ids, masks, background, record)


def open_output(url: "str | PathLike[str]", endpoint_url: str | None = None) -> "xr.Dataset":
    """Open the store of an output for reading; arrays are read when they are asked for.

    Parameters
    ----------
    url
        The output's folder or ``s3://`` prefix.
    endpoint_url
        The S3 server, if it is not Amazon's.

    Raises
    ------
    FileNotFoundError
        If there is no store at `url`.
    """
    from tasks.storage.location import Location
    from tasks.store.template import open_store

    return open_store(Location(url=str(url), endpoint_url=endpoint_url))


def write_slide_map(
    url: "str | PathLike[str]",
    id: str,
    path: "str | PathLike[str]",
    *,
    target: int = 0,
    endpoint_url: str | None = None,
) -> None:
    """Write the maps of one slide as a pyramid that viewers lay over it: an OME-TIFF with a channel an explainer.

    A tile's value is the mean of the map over the tile: of `mil_attention`, its weight. NaN where there is no tile.

    Parameters
    ----------
    url, endpoint_url
        The output, as `open_output` takes it.
    id
        The image's name along ``image_id``.
    path
        The file that is written.
    target
        Number along ``target``.

    Raises
    ------
    FileNotFoundError
        If there is no store at `url`.
    ConfigurationError
        If the output holds no such slide with maps.
    """
    from tasks.report.slides import write_slide_map as write
    from tasks.storage.location import Location

    write(Location(url=str(url), endpoint_url=endpoint_url), id, Path(path), target)
