"""Gradients of convolutions with respect to images of few channels, faster on a CPU.

oneDNN fills its vectors with channels, so that the gradient with respect to one channel takes as long as that with
respect to sixteen: a tenth of a pass forward and back through a ResNet in 2-D, 40 % in 3-D. A matrix product and
shifted sums give the same gradient, but for rounding, 2 to 7 times faster.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_MOST = 3
"""The number of channels up to which this is faster, whatever kernel and stride."""

_CONVOLUTIONS = {torch.conv2d, torch.conv3d, torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default}


def few_channels() -> TorchFunctionMode:
    """Take gradients with respect to what has few channels by the faster way in the body.

    Rules that see each convolution do not belong into the body.
    """
    return _Mode()


class _Mode(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or (fast := _fast(func, *args, **kwargs)) is None:
            return func(*args, **kwargs)
        return _Convolution.apply(*fast)


def _fast(
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...] | None:
    """Make the arguments of `_Convolution`, with a number for each axis; None where torch goes its own way."""
    if (
        input.requires_grad
        and not weight.requires_grad
        and (bias is None or not bias.requires_grad)
        and input.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and input.ndim == weight.ndim
        and weight.shape[1] <= _MOST
        and groups == 1
        and not isinstance(padding, str)
        and set(_each(dilation, weight)) == {1}
    ):
        return func, input, weight, bias, _each(stride, weight), _each(padding, weight)
    return None


def _each(value: Any, weight: Tensor) -> list[int]:
    """Repeat what is one number, or a list of one, for each axis of a kernel."""
    values = [value] if isinstance(value, int) else list(value)
    return values * (weight.ndim - 2) if len(values) == 1 else values


class _Convolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(func: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        output: Tensor = func(input, weight, bias, stride, padding)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, input, weight, _, ctx.stride, ctx.padding = inputs
        # The input is not needed. But a checkpoint computes this part of a network again outside of the mode, and wants
        # to find the tensors that it was told of: those that torch keeps, in that order.
        ctx.save_for_backward(input, weight)
        ctx.sizes = input.shape[2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _, weight = ctx.saved_tensors
        return None, _of_input(gradients[0], weight, ctx.sizes, ctx.stride, ctx.padding), None, None, None, None


def _of_input(
    gradient: Tensor, weight: Tensor, sizes: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Take the gradient ``(image, feature, *place)`` back to the input, ``(image, channel, *sizes)``.

    The products of all features with the kernel are as many as its taps: images are taken a few at a time, so that
    these need no more memory than the gradient, or what one image needs.
    """
    features, (channels, *kernel) = len(weight), weight.shape[1:]
    taps = weight.flatten(1).T
    found = []
    for part in gradient.split(max(len(gradient) * features // len(taps), 1)):
        sums = (taps @ part.flatten(2)).view(len(part), channels, *kernel, *part.shape[2:])
        for size, step, before in zip(sizes, stride, padding, strict=True):
            sums = _overlapping(sums, 2 + len(kernel), size, step, before)
        found.append(sums)
    return torch.cat(found)


def _overlapping(sums: Tensor, axis: int, size: int, step: int, before: int) -> Tensor:
    """Sum over the taps along axis 2 where they reach from each place along `axis`; crop to `size` places."""
    taps, places = sums.shape[2], sums.shape[axis]
    shape = [*sums.shape[:2], *sums.shape[3:]]
    shape[axis - 1] = max(places * step + taps, before + size)
    reached = sums.new_zeros(shape)
    for tap, part in enumerate(sums.unbind(2)):
        reached[(*[slice(None)] * (axis - 1), slice(tap, tap + places * step, step))].add_(part)
    return reached.narrow(axis - 1, before, size)
