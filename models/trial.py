"""Trials that show whether a network is a function of the image alone, and whether it answers with logits."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from models.errors import ConfigurationError

Run = Callable[..., Tensor]

_ROUNDINGS = 64
"""The units in the last place of the largest answer that two ways to compute it may lie apart."""

_MATTERS = 1e-2
"""The share of what varies between images from which on two answers are not the same."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn whatever the body raises into an error that a user can mend, which begins with `what`."""
    try:
        yield
    except (ConfigurationError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConfigurationError(f"{what}: {summary(error)}") from error


def summary(error: Exception) -> str:
    """Say in one line what an exception says: its other lines are for those who wrote what raised it."""
    if isinstance(error, CheckpointError):
        return "it computes activations again for gradients (checkpointing), unwatched: set `use_checkpoint: false`"
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return said if said and isinstance(error, RuntimeError | ValueError) else f"{type(error).__name__} {said}".strip()


def synthetic(shape: tuple[int, ...], count: int = 2) -> Tensor:
    """Make images to try a network on, always the same: ``(count, *shape)``, with `shape` ``(channel, *space)``.

    They are noise with an empty margin and ramps with a constant margin, in turn: what holds on noise alone, such as
    that no pixel is zero, does not hold on these.
    """
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    *_, height, width = shape
    images[::2, ..., : width // 4] = 0
    images[1::2] = 0.5 * images[1::2] + torch.linspace(-1, 3, height)[:, None] + torch.linspace(0, 2, width)
    images[1::2, ..., height - height // 4 :, :] = 1
    return images


def spread(answers: Tensor) -> Tensor:
    """Compute how far answers ``(image, ...)`` lie from their mean over images, at most."""
    return (answers - answers.mean(0, keepdim=True)).abs().amax()


def alike(found: Tensor, expected: Tensor, tolerance: float = _MATTERS, among: Tensor | None = None) -> bool:
    """Tell whether answers ``(image, ...)`` are equal, but for a share of what varies between images and rounding.

    Parameters
    ----------
    among
        The answers that vary; None: `expected`. A bias moves all of them, so that it is no measure.
    """
    if found.shape != expected.shape or not torch.equal(found.isfinite(), expected.isfinite()):
        return False
    among = (expected if among is None else among).nan_to_num(0.0, 0.0, 0.0)
    apart = (found - expected).nan_to_num(0.0, 0.0, 0.0).abs().amax()
    return bool(apart <= tolerance * spread(among) + _ROUNDINGS * _unit(among) * among.abs().amax())


def _unit(values: Tensor) -> float:
    """Look up the distance of 1 to the next number that convolutions of these values are computed in."""
    if values.is_cuda and values.dtype == torch.float32 and torch.backends.cudnn.allow_tf32:
        return 2**-10
    return torch.finfo(values.dtype).eps


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Let GPUs compute convolutions in the body in single precision."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield


def check_function(run: Run, images: Tensor, name: str, record: Tensor | None = None) -> Tensor:
    """Try whether answers depend on the image alone; return those about `images`, of which there are at least two.

    Parameters
    ----------
    record
        ``(image, field)`` beside the images; None where the network takes none.

    Raises
    ------
    ConfigurationError
        If the answers differ when the same is asked again, or when other images are in the batch.
    """
    inputs = (images,) if record is None else (images, record)
    given = [part.clone() for part in inputs]
    together = run(*inputs)
    if not all(map(torch.equal, inputs, given)):
        raise ConfigurationError(changes_its_input(name))
    if len(together) != len(images):
        raise ConfigurationError(
            f"{name} returns {len(together)} rows for {len(images)} images: let it keep the first axis"
        )
    if not alike(run(*inputs), together):
        raise ConfigurationError(
            f"{name} answers otherwise when it is asked about the same images again: let dropout end in evaluation "
            "mode (`F.dropout(x, training=self.training)`), draw nothing at random, and keep nothing of one call for "
            "the next"
        )
    for rows in (range(len(images) - 1, 0, -1), [0]):
        if not alike(run(*(part[list(rows)] for part in inputs)), together[list(rows)], among=together):
            raise ConfigurationError(
                f"{name} answers otherwise about an image when other images are in its batch: let it normalise by "
                "running statistics or by the image (no BatchNorm with `track_running_stats=False`), and let nothing "
                "mix along the first axis"
            )
    return together


def changes_its_input(name: str) -> str:
    return (
        f"{name} changes its input in place, so that whatever asks next sees another image: write "
        "`images = images - mean` in place of `images -= mean`, and no operation such as `sub_` or `clamp_` on it"
    )


def no_gradient(name: str) -> str:
    return (
        f"no gradient of the logits of {name} comes back to what is explained: leave `torch.no_grad`, `detach` and "
        "decisions such as `argmax` out of its forward pass, or use explainers without gradients, such as occlusion"
    )


def in_steps(run: Run, images: Tensor, record: Tensor) -> list[int]:
    """Find the fields by which answers differ though they have no gradient, as where a field chooses an embedding.

    Parameters
    ----------
    images, record
        ``(image, channel, *space)`` and ``(image, field)``; what a field holds differs between images.
    """
    record = record.detach().requires_grad_()
    with torch.enable_grad():
        logits = run(images, record)
    weights = torch.linspace(1, 2, logits.numel()).view_as(logits).to(logits)
    (gradient,) = torch.autograd.grad(logits, record, weights, allow_unused=True)
    found = []
    for field in range(record.shape[1]):
        other = record.detach().clone()
        other[:, field] = other[:, field].roll(1)
        if (gradient is None or not gradient[:, field].any()) and not torch.equal(run(images, other), logits):
            found.append(field)
    return found


def check_logits(logits: Tensor, activation: str, run: Run, images: Tensor, name: str) -> None:
    """Check that answers to `images` are not probabilities already, which softmax or sigmoid would squeeze again.

    Raises
    ------
    ConfigurationError
        If they are.
    """
    if activation == "identity" or not logits.isfinite().all() or logits.amin() < 0 or logits.amax() > 1:
        return
    sums_to_one = logits.shape[1] > 1 and bool(((logits.sum(1) - 1).abs() < 1e-4).all())
    if sums_to_one or _is_squeezed(run, images, logits):
        raise ConfigurationError(
            f"{name} returns probabilities already ({'they sum to 1' if sums_to_one else 'all lie between 0 and 1'}), "
            f"and model.activation is {activation}, which would squeeze them again: set "
            "`model.outputs: probabilities`, and their logarithms are explained; or leave the last activation out of "
            "the network, and its logits are; or set `model.activation: identity`, and its outputs are explained as "
            "they are"
        )


def _is_squeezed(run: Run, images: Tensor, logits: Tensor) -> bool:
    """Tell whether answers stay within [0, 1] however strong the image is, and are a sigmoid's or reach both ends."""
    strong = run(images * 1000)
    if not bool(((strong >= 0) & (strong <= 1)).all()) or spread(torch.cat([logits, strong])) == 0:
        return False
    with torch.enable_grad():
        last = run(images.clone().requires_grad_()).grad_fn
    return _is_made_of_squeezed(last) or bool((strong < 1e-3).any() and (strong > 1 - 1e-3).any())


def _is_made_of_squeezed(last: Any) -> bool:
    """Tell whether a step of a backward pass stands for sigmoids and the like, moved, averaged or scaled."""
    seen: set[Any] = set()
    following, is_squeezed = [last], False
    while following:
        step = following.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if _SQUEEZING.match(step.name()):
            is_squeezed = True
        elif _KEEPING.match(step.name()):
            following += [before for before, _ in step.next_functions]
        else:
            return False
    return is_squeezed


# Names of steps as torch gives them.
_SQUEEZING = re.compile(r"(Sigmoid|Hardsigmoid|Softmax)Backward")
_KEEPING = re.compile(
    r"(View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze|Select|Slice|Index|Permute|Transpose|Expand|Split|Unbind|Clone|"
    r"ToCopy|Cat|Stack|Mean|Sum|Add|Sub|Rsub|Mul|Div|Clamp|Maximum|Minimum|Upsample\w+)Backward"
)
