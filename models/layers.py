"""Layers of a network: which lie on the way to the logits, are laid out as the image is, or feed a linear head."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.trial import alike

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Head:
    """A linear layer that takes the mean over space of a layer, and whose answer are the logits.

    Attributes
    ----------
    weight
        ``(class, feature)``.
    """

    weight: Tensor
    bias: Tensor | None

    def explains(self, layer: Tensor, logits: Tensor, among: Tensor | None = None) -> bool:
        """Tell whether logits ``(image, class)`` are linear in the mean of ``(image, feature, *space)``."""
        return alike(functional.linear(layer.flatten(2).mean(-1), self.weight, self.bias), logits, among=among)


@contextmanager
def hooked(module: nn.Module, layers: Collection[str], note: Callable[[str, Any, Any], Any]) -> Iterator[None]:
    """Call `note` with name, inputs and output of each of `layers` while the body runs the module.

    What it returns is handed on in the place of the output, unless it is None.
    """
    handles = [
        module.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: note(name, inputs, output)
        )
        for name in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class SpatialLayer:
    """A layer with a spatial extent.

    Attributes
    ----------
    places
        The number of places in its output.
    is_convolved
        Whether its output comes of a convolution, a pooling or the like, whose axes are those of the image.
    """

    places: int
    is_convolved: bool


def spatial_layers(module: nn.Module, run: Run, images: Tensor, layers: Sequence[str]) -> dict[str, SpatialLayer]:
    """Find the layers with a row for each image, a spatial extent and a part in the logits, as they finish."""
    finished: dict[str, tuple[int, Any]] = {}

    def note(name: str, _: Any, output: Any) -> Tensor | None:
        finished.pop(name, None)
        is_map = isinstance(output, Tensor) and output.ndim == images.ndim and len(output) == len(images)
        if not is_map or max(output.shape[2:]) == 1:
            return None
        handed_on: Tensor = output.clone()  # a layer that returns its input may have no part, though that has one
        finished[name] = output[0, 0].numel(), handed_on.grad_fn
        return handed_on

    with torch.enable_grad(), hooked(module, layers, note):
        logits = run(images.clone().requires_grad_())
    on_the_way = set(graph(logits.grad_fn))
    return {
        name: SpatialLayer(places, _is_convolved(made_by))
        for name, (places, made_by) in finished.items()
        if made_by in on_the_way
    }


def graph(last: Any, through: Callable[[Any], bool] = lambda step: True) -> Iterator[Any]:
    """Yield the steps of a backward pass from `last`, each once; it ends at those that are not gone `through`."""
    seen, following = set(), [last]
    while following:
        step = following.pop()
        if step is not None and step not in seen:
            seen.add(step)
            yield step
            if through(step):
                following += [before for before, _ in step.next_functions]


def _is_convolved(made_by: Any) -> bool:
    """Tell whether a step is a convolution or the like, or only steps that keep the axes come between."""
    return any(_SPATIAL.match(step.name()) for step in graph(made_by, lambda step: not _MIXING.match(step.name())))


# Names of steps as torch gives them. A view may be that of an instance normalisation.
_SPATIAL = re.compile(r"(Slow|Thnn|Mkldnn|Cudnn|Miopen)?Conv|(Adaptive)?(Max|Avg)Pool|Upsample|MkldnnMaxPool", re.I)
_MIXING = re.compile(
    r"Softmax|LogSoftmax|Scaled|.*mmBackward|Dot|Permute|Transpose|TBackward|NativeLayerNorm|Unfold", re.I
)


def is_laid_out(layer: str, module: nn.Module, run: Run, images: Tensor) -> bool:
    """Tell whether a change of the image shows in the layer at the same place, along each axis of space.

    It does not where the axes of a layer are others than those of the image, as in attention (tokens by tokens), and in
    tokens by features. The two ends of the image are changed in turn along each axis; the centre of what changes in the
    layer has to move along that axis, and less along others.
    """
    outputs: list[Tensor] = []
    dims = images.ndim - 2
    moved = torch.zeros(dims, dims)
    image, other = images[:1], images[:1].flip(tuple(range(2, images.ndim))) + 1
    for axis in range(dims):
        half = images.shape[2 + axis] // 2
        at_start = torch.arange(images.shape[2 + axis], device=images.device) < half
        at_start = at_start.view(-1, *[1] * (dims - 1 - axis))
        tried = torch.cat([image, torch.where(at_start, other, image), torch.where(at_start, image, other)])
        outputs.clear()
        with torch.no_grad(), hooked(module, [layer], lambda _, __, output: outputs.append(output.clone())):
            run(tried)
        before, start, end = outputs[-1].double()
        moved[axis] = _centre((end - before).abs().sum(0)) - _centre((start - before).abs().sum(0))
    sides = torch.tensor(outputs[-1].shape[2:])
    moved = moved[sides > 1][:, sides > 1]
    own = moved.diagonal()
    others = (moved - own.diag()).abs()
    return bool((own > 2 * others.amax(0)).all() and (own > 2 * others.amax(1)).all())


def _centre(values: Tensor) -> Tensor:
    """Compute the centre of ``(*space,)``, each coordinate in [0, 1]."""
    total = values.sum()
    return torch.stack(
        [
            (values.movedim(axis, 0).flatten(1).sum(1) * torch.linspace(0, 1, side).to(values)).sum() / total
            for axis, side in enumerate(values.shape)
        ]
    ).cpu()


def find_classifier(module: nn.Module, run: Run, images: Tensor) -> str | None:
    """Find the linear layer whose answers are the logits, or the last of these where one stands for two classes."""
    answers: dict[str, Tensor] = {}
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]

    def note(name: str, _: Any, output: Tensor) -> None:
        answers[name] = output.clone()

    with hooked(module, linear, note):
        logits = run(images)
    found = (name for name, answer in answers.items() if torch.equal(answer, logits[:, -answer.shape[-1] :]))
    return next(found, None)


def find_head(layer: str, module: nn.Module, run: Run, images: Tensor) -> Head | None:
    """Find the head that explains the logits by `layer`, if there is one."""
    outputs: dict[str, Tensor] = {}
    linear = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}

    def note(name: str, _: Any, output: Tensor) -> None:
        outputs[name] = output.clone()

    with hooked(module, {layer, *linear}, note):
        logits = run(images)
    for name, part in linear.items():
        if name in outputs and torch.equal(outputs[name], logits) and part.in_features == outputs[layer].shape[1]:
            head = Head(part.weight, part.bias)
            return head if head.explains(outputs[layer], logits) else None
    return None
