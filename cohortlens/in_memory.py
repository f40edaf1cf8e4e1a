"""Explanations of images in memory by a module in memory: one engine, and no files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from torch import Tensor, nn

from flows.config import explain_errors
from models import forms
from models.answers import Activation, Meaning, part_of
from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import Explainer, ExplainerConfig, MapExplainer
from models.explainers.base import require_channels
from models.network import Network
from models.network_config import NetworkConfig
from models.outputs import EXPLAINER, IMAGE_ID, Channels, Computed, Frame, Output, joined
from models.prediction import declare_prediction
from models.records import RecordField
from models.targets import Target, TargetConfig
from models.trial import told
from tasks.plan.recipe import Named, once_each

_TRIED = 3


def _or_made(kind: type) -> WrapValidator:
    """Take an instance as it is, of a class that no registry holds, too."""
    return WrapValidator(lambda value, check: value if isinstance(value, kind) else check(value))


class _Arguments(BaseModel):
    """The arguments that are fields of a configuration, too."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    explainers: Annotated[
        tuple[Annotated[Named[ExplainerConfig], _or_made(Explainer)], ...], AfterValidator(once_each)
    ] = Field(strict=False, min_length=1)
    target: Annotated[Named[TargetConfig], _or_made(Target)]
    classes: tuple[str, ...] | None = Field(strict=False, min_length=1)
    activation: Activation
    output: str | int | None
    outputs: Meaning
    channels: Channels
    fields: tuple[RecordField, ...] = Field(strict=False)
    batch_size: int = Field(ge=1)
    input_shape: tuple[int, ...] | None = Field(strict=False, min_length=2, max_length=3)
    windows: dict[str, Any] | None


def explain(
    module: Any, images: Any, arguments: Mapping[str, Any], ids: Any, masks: Any, background: Any, record: Any
) -> xr.Dataset:
    """Explain images by a module; `cohortlens.explain` says how."""
    try:
        wanted = _Arguments.model_validate(arguments)
    except ValidationError as error:
        raise ConfigurationError(f"explain:\n{explain_errors(error)}") from error
    trained = _copied(module)
    pixels = _tensor("images", images, trained)
    names = _named(ids, len(pixels))
    inside = None if masks is None else _inside(masks, pixels)
    others = None if background is None else _tensor("background", background, trained, pixels.shape[1:])
    if others is None and (lacking := [one.title for one in wanted.explainers if one.fits]):
        raise ConfigurationError(
            f"background: {', '.join(lacking)} compares each image with usual ones: give some, {_AXES}"
        )
    beside = _record(record, pixels, wanted.fields)
    if keeps := wanted.channels == "keep":
        require_channels(wanted.explainers, pixels.shape[1])
    with _arguments():
        config = _config(trained, pixels, beside, wanted)
        fields = wanted.fields or tuple(RecordField(name=str(number)) for number in range(beside.shape[1]))
        network = Network(_copied(trained), config, _first(trained).device, fields=fields)
        _try(network, trained, pixels, beside)
        fitted = {} if others is None else {"background": others}
        engine = Engine(network, wanted.explainers, wanted.target, wanted.batch_size, fitted, keeps_channels=keeps)
        found = _explained(engine, pixels, names, inside, beside)
    frame = _frame(engine, wanted.target)
    declared = joined(declare_prediction(frame), *(one.declare(frame, network) for one in wanted.explainers))
    return _dataset(declared, found, frame, names)


_AXES = "(image, channel, *space) with a space of two or three axes"


def _copied(module: Any) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise ConfigurationError(f"module: a torch module is explained, found {type(module).__name__}")
    module = getattr(module, "_orig_mod", module)  # as it was before `torch.compile`
    try:
        copied = forms.copied(module)
    except Exception as error:
        raise ConfigurationError(
            f"module: {type(module).__name__} cannot be copied ({type(error).__name__}: {str(error)[:200]}), and is "
            "not to be changed: let it keep nothing but parameters, buffers and plain values, and no tensor that "
            "was computed with gradients"
        ) from error
    return copied.eval()


def _first(module: nn.Module) -> Tensor:
    """Return the first parameter of floats: its device and type are those of the module."""
    return next((one for one in module.parameters() if one.is_floating_point()), torch.zeros(()))


def _tensor(name: str, values: Any, module: nn.Module, shape: Sequence[int] | None = None) -> Tensor:
    """Take images to the module's type."""
    dtype = _first(module).dtype
    if dtype not in (torch.float32, torch.float64):
        raise ConfigurationError(f"module: it computes in {dtype}; explain `copy.deepcopy(module).float()`")
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name}: {_AXES} is taken, found {type(values).__name__}") from error
    if tensor.ndim not in (4, 5) or not tensor.numel() or tensor.is_complex():
        raise ConfigurationError(f"{name}: {_AXES} is taken, found {tensor.dtype} of shape {tuple(tensor.shape)}")
    if shape is not None and tensor.shape[1:] != torch.Size(shape):
        raise ConfigurationError(
            f"{name}: each is of shape {tuple(tensor.shape[1:])}, where those of images are {tuple(shape)}"
        )
    return tensor.to(dtype)


def _record(values: Any, images: Tensor, fields: Sequence[RecordField]) -> Tensor:
    """Take records to the images' type; none has no fields."""
    record = images.new_zeros(len(images), 0) if values is None else torch.as_tensor(np.array(values)).to(images)
    count = len(fields) or (record.shape[1] if record.ndim == 2 else "field")
    if tuple(record.shape) != (len(images), count) or not record.isfinite().all():
        raise ConfigurationError(
            f"record: finite numbers of shape {(len(images), count)} are taken, a row for each image and a column for "
            f"each of fields, found shape {tuple(record.shape)}"
        )
    return record


def _named(ids: Any, count: int) -> tuple[str, ...]:
    names = tuple(map(str, range(count) if ids is None else ids))
    if len(names) != count or len(set(names)) != count:
        raise ConfigurationError(
            f"ids: one name for each of {count} images is taken, found {len(names)}, "
            f"of them {len(set(names))} different"
        )
    return names


def _inside(masks: Any, images: Tensor) -> Tensor:
    inside = torch.as_tensor(masks if isinstance(masks, Tensor) else np.array(masks)) != 0
    expected = (len(images), *images.shape[2:])
    if tuple(inside.shape) != expected:
        raise ConfigurationError(f"masks: shape {expected} is taken, found {tuple(inside.shape)}")
    return inside


@contextmanager
def _arguments() -> Iterator[None]:
    """Name arguments in errors, where a configuration has fields of `model`."""
    try:
        yield
    except ConfigurationError as error:
        said = str(error).replace("(model.channels, model.input_shape)", "(images, input_shape)")
        said = said.replace("cohort.record", "record")
        raise ConfigurationError(re.sub(r"\bmodel\.(?=\w)", "", said)) from error


def _config(module: nn.Module, images: Tensor, record: Tensor, wanted: _Arguments) -> NetworkConfig:
    grid = tuple(images.shape[2:])
    if wanted.windows is not None and wanted.input_shape is None:
        raise ConfigurationError("windows: state input_shape, the sides of the window that the module takes at once")
    windows = None if wanted.input_shape is None else {"image_shape": grid, **(wanted.windows or {})}
    try:
        config = NetworkConfig(
            classes=wanted.classes or ("",),
            channels=images.shape[1],
            input_shape=wanted.input_shape or grid,
            windows=windows,  # type: ignore[arg-type]  # pydantic makes it of a mapping
            activation=wanted.activation,
            output=wanted.output,
            outputs=wanted.outputs,
        )
    except ValidationError as error:
        raise ConfigurationError(f"explain:\n{explain_errors(error)}") from error
    if config.grid != grid:
        raise ConfigurationError(f"windows.image_shape is {config.grid}, but images are of {grid}: leave it out")
    if wanted.classes is not None:
        return config
    name, (tried, beside) = type(module).__name__, config.tiles.some(images[:1], record[:1], 1)
    with torch.no_grad(), told(f"{name} does not take an image of shape {tuple(tried.shape)} (images, input_shape)"):
        given = (tried, beside) if record.shape[1] else (tried,)
        answers = part_of(module(*(part.clone().to(_first(module).device) for part in given)), wanted.output, name)
    count = answers.shape[1] if isinstance(answers, Tensor) and answers.ndim > 1 else 1
    return config.model_copy(update={"classes": tuple(map(str, range(count)))})


def _try(network: Network, trained: nn.Module, images: Tensor, record: Tensor) -> None:
    """Try the network on some of the images, as a plan does."""
    finite = images.flatten(1).isfinite().all(1)
    some, beside = images[finite][:_TRIED], record[finite][:_TRIED]
    if len(some):
        some, beside = network.tiles.some(some, beside, _TRIED)
        network.check(some, beside)
        network.check_same(trained, some.clone(), beside)


def _explained(engine: Engine, images: Tensor, ids: Sequence[str], masks: Tensor | None, record: Tensor) -> Computed:
    size = engine.images_at_once
    parts = [
        engine.explain(images[own], ids[own], None if masks is None else masks[own], record[own])
        for own in (slice(at, at + size) for at in range(0, len(images), size))
    ]
    return {name: torch.cat([part.outputs[name].cpu() for part in parts]) for name in parts[0].outputs}


def _frame(engine: Engine, target: Target) -> Frame:
    config = engine.network.config
    return Frame(
        classes=config.classes,
        targets=tuple(target.labels(config.classes)),
        explainers=tuple(one.title for one in engine.asking if isinstance(one, MapExplainer)),
        channels=tuple(map(str, range(config.channels))),
        grid=config.grid,
        activation=config.activation,
        segments=engine.network.segments,
        keeps_channels=engine.keeps_channels,
        fields=tuple(field.name for field in engine.network.fields),
    )


def _dataset(declared: Mapping[str, Output], found: Computed, frame: Frame, ids: Sequence[str]) -> xr.Dataset:
    axes = {axis.name: axis for output in declared.values() for axis in output.axes}
    labels: dict[str, Any] = {
        IMAGE_ID: ids,
        "class": frame.classes,
        "target": frame.targets,
        **({"channel": frame.channels} if frame.keeps_channels else {}),
        **{
            name: np.arange(axis.labels) if isinstance(axis.labels, int) else axis.labels for name, axis in axes.items()
        },
        **({EXPLAINER: frame.explainers} if frame.explainers else {}),
    }
    return xr.Dataset(
        {
            name: (output.dims, found[name].numpy().astype(output.dtype), output.cf_attrs)
            for name, output in declared.items()
        },
        coords={name: (name, np.array(values)) for name, values in labels.items()},
    )
