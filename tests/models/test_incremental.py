"""Answers from boxes equal those from whole images, whatever the network does, and cost less."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks.nets import DenseNet121, EfficientNetBN, SegResNet, SEResNet50, UNet, ViT, resnet18, resnet50
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from models.engine import Engine
from models.explainers import feature_ablation, occlusion
from models.explainers.feature_ablation import FeatureAblation
from models.explainers.occlusion import Occlusion
from models.network import Network
from models.networks import AttentionGatedClassifier
from models.questions import plainly
from models.rules import incremental
from models.rules.incremental import AskBoxes, Boxes
from models.targets import Classes, Region
from tests.models.networks import difference, names, wrap

aten = torch.ops.aten

SHAPES = {2: (96, 80), 3: (32, 36, 32)}
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "ResNet18": lambda dims: resnet18(spatial_dims=dims, n_input_channels=2, num_classes=4, conv1_t_stride=2),
    "ResNet50-A": lambda dims: resnet50(
        spatial_dims=dims, n_input_channels=2, num_classes=4, conv1_t_stride=2, shortcut_type="A"
    ),
    "DenseNet121": lambda dims: DenseNet121(dims, 2, 4, dropout_prob=0.2),
    "EfficientNet-B0": lambda dims: EfficientNetBN(
        "efficientnet-b0", spatial_dims=dims, in_channels=2, num_classes=4, pretrained=False
    ),
    "SEResNet50": lambda dims: SEResNet50(spatial_dims=dims, in_channels=2, num_classes=4),
    "UNet": lambda dims: UNet(dims, 2, 4, (4, 8, 16), (2, 2), dropout=0.2),
    "UNet-batch": lambda dims: UNet(dims, 2, 4, (4, 8, 16), (2, 2), norm="batch", act="swish"),
    "SegResNet": lambda dims: SegResNet(dims, 8, 2, 4),
    "ViT": lambda dims: ViT(2, SHAPES[dims], 8, hidden_size=24, mlp_dim=32, num_layers=2, num_heads=3,
                            classification=True, num_classes=4, spatial_dims=dims, post_activation="none"),
    "AttentionGated": lambda dims: AttentionGatedClassifier(dims, 2, 4),
}  # fmt: skip
CASES = [(name, 2) for name in NETWORKS] + [(name, 3) for name in ("ResNet18", "DenseNet121", "AttentionGated")]


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_answers_from_boxes_equal_those_from_whole_images(name: str, dims: int) -> None:
    assert_equal(network_of(NETWORKS[name](dims), SHAPES[dims]), SHAPES[dims])


class Odd(nn.Module):
    """A convolution, something odd, and another convolution."""

    def __init__(self, odd: Callable[[Tensor], Any], channels: int) -> None:
        super().__init__()
        self.first, self.odd = nn.Conv2d(2, 4, 3, padding=1), odd
        self.last, self.head = nn.Conv2d(channels, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.odd(self.first(x)))
        return self.head(functional.relu(x).square().flatten(2).mean(-1))


def _relu_of_what_is_used_again(x: Tensor) -> Tensor:
    y = functional.relu_(x)
    return x * 2 + y


def _in_place_by_a_view(x: Tensor) -> Tensor:
    first = x[:, :1]
    x.mul_(2)
    first += 1
    x[..., 3] = 0.5
    return x


def _in_place_from_a_wider_box(x: Tensor) -> Tensor:
    y = functional.avg_pool2d(x, 5, 1, 2)
    z = x.clone()
    z += y
    z.add_(x, alpha=-2).clamp_(min=-1)
    x *= torch.arange(1.0, 5, dtype=x.dtype).view(4, 1, 1)
    return torch.cat([z, x], dim=1)


def _in_place_into_what_was_made_outside(x: Tensor) -> Tensor:
    total = torch.zeros(x.shape, dtype=x.dtype)
    total += x
    torch.mul(x, 2, out=total[:])
    return total.add_(x)


def _in_place_after_padding(x: Tensor) -> Tensor:
    y = functional.pad(x, (1, 2, 0, 3))
    y.mul_(3)
    return y[..., :-3, 1:-2] - x


def _unpooled(x: Tensor) -> Tensor:
    y, places = functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    return functional.max_unpool2d(y, places, 3, 2, 1, output_size=x.shape[2:])


def _by_what_is_found(x: Tensor) -> Tensor:
    if x.amax() > 0 and not x.equal(x + 1):
        x = torch.where(x > 0.1, x, x.max(1, keepdim=True)[0])
    return x.masked_fill(x.isnan(), 0.0).to(torch.float32).to(x.dtype)


class Script(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x * 2 + 1).sigmoid()


def _grid(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], dtype=x.dtype)


KEPT: dict[str, tuple[Callable[[], Callable[[Tensor], Any]], int]] = {
    "dilated": (lambda: nn.Conv2d(4, 4, 3, padding=3, dilation=(2, 4)), 4),
    "grouped": (lambda: nn.Conv2d(4, 6, (5, 2), padding=(1, 0), groups=2), 6),
    "even and strided": (lambda: nn.Sequential(nn.Conv2d(4, 6, 4, 2, 1), nn.Conv2d(6, 6, 2, (2, 1))), 6),
    "stride over kernel": (lambda: nn.Conv2d(4, 4, 2, stride=3), 4),
    "padded to the same": (lambda: nn.Conv2d(4, 4, 4, padding="same"), 4),
    "padded more on one side": (lambda: lambda x: functional.pad(x, (3, 0, 1, 2), value=2.0), 4),
    "norm": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.5)), 4),
    "prelu": (lambda: nn.PReLU(4), 4),
    "relu of what is used again": (lambda: _relu_of_what_is_used_again, 4),
    "in place from a wider box": (lambda: _in_place_from_a_wider_box, 8),
    "max pool, padded": (lambda: nn.MaxPool2d(3, 2, 1), 4),
    "max pool, ceiled": (lambda: nn.MaxPool2d((4, 3), 3, ceil_mode=True), 4),
    "max pool, dilated": (lambda: nn.MaxPool2d(3, 1, 1, dilation=2), 4),
    "average pool, padded": (lambda: nn.AvgPool2d(4, 3, 2), 4),
    "average pool, divided": (lambda: nn.AvgPool2d(2, divisor_override=3), 4),
    "constants by channel": (lambda: lambda x: x * torch.arange(4).view(1, 4, 1, 1) - torch.tensor(0.5), 4),
    "where": (lambda: lambda x: torch.where(x > 0, x.exp(), x.abs().clamp(0, 1)), 4),
}  # fmt: skip
MADE_WHOLE: dict[str, tuple[Callable[[], Callable[[Tensor], Any]], int]] = {
    "reflected": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), 4),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 3, 2), 4),
    "instance norm": (lambda: nn.InstanceNorm2d(4), 4),
    "average pool, ceiled": (lambda: nn.AvgPool2d(4, 3, ceil_mode=True), 4),
    "average pool, padding not counted": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), 4),
    "cropped": (lambda: lambda x: functional.pad(x, (-1, 2, 0, -3)), 4),
    "padded in channels": (lambda: lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1)), 6),
    "in place by a view": (lambda: _in_place_by_a_view, 4),
    "in place into what was made outside": (lambda: _in_place_into_what_was_made_outside, 4),
    "in place after padding": (lambda: _in_place_after_padding, 4),
    "unpooled": (lambda: _unpooled, 4),
    "by what is found": (lambda: _by_what_is_found, 4),
    "joined in space": (lambda: lambda x: torch.cat([x, x.relu()], dim=2), 4),
    "joined with a constant": (lambda: lambda x: torch.cat([x, torch.ones_like(x)], dim=1), 8),
    "by place": (lambda: lambda x: x * _grid(x) + _grid(x).view(1, 1, 1, -1), 4),
    "gated": (lambda: lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), 4),
    "of two grids": (lambda: lambda x: x + x.amax(3, keepdim=True), 4),
    "chunks": (lambda: lambda x: torch.mul(*x.chunk(2, dim=1)), 2),
    "tokens": (lambda: lambda x: (x.flatten(2) @ x.flatten(2).mT).softmax(-1).mean(-1)[..., None, None] * x, 4),
    "upsampled": (lambda: lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), 4),
    "scripted": (lambda: torch.jit.script(Script()), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", [*KEPT, *MADE_WHOLE])
def test_odd_operations_are_right(name: str) -> None:
    torch.manual_seed(2)
    make, channels = (KEPT | MADE_WHOLE)[name]
    network = network_of(Odd(make(), channels), (96, 80))
    assert_equal(network, (96, 80))
    if name in KEPT:
        assert multiplications(network, (96, 80)) < 0.7


@pytest.mark.parametrize(
    ("name", "dims", "share"), [("ResNet18", 2, 0.7), ("DenseNet121", 2, 0.8), ("ResNet18", 3, 0.8)]
)
def test_fewer_multiplications_are_done(name: str, dims: int, share: float) -> None:
    shape = {2: (160, 160), 3: (48, 48, 48)}[dims]
    assert multiplications(network_of(NETWORKS[name](dims), shape, torch.float32), shape) < share


@pytest.mark.parametrize(
    ("window", "stride", "fill"),
    [(30, (30, 26), "blur"), ((19, 100), 19, "mean"), ((60, 41), (60, 41), 0.25), (200, 200, "blur")],
)
def test_occlusion_is_the_same_in_batches_of_any_size(
    window: Any, stride: Any, fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(AttentionGatedClassifier(2, 2, 4), (96, 80))
    batch, explainer = images((96, 80)), Occlusion(window=window, stride=stride, fill=fill)

    def maps(size: int) -> Tensor:
        return Engine(network, [explainer], Classes(classes=("b",)), batch_size=size).explain(batch, names(batch)).maps

    found = [maps(size) for size in (1, 7, 16)]
    monkeypatch.setattr(occlusion, "AskBoxes", lambda *_: plainly)
    assert all(difference(ours, maps(16)) < 1e-9 for ours in found)


@pytest.mark.parametrize("shape", [(96, 80), (32, 36, 32)])
def test_segments_are_hidden_as_boxes(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(AttentionGatedClassifier(len(shape), 2, 4), shape)
    batch, explainer = images(shape), FeatureAblation(segments=30, compactness=10)

    def maps() -> Tensor:
        return Engine(network, [explainer], Classes(classes=("b",)), batch_size=8).explain(batch, names(batch)).maps

    with torch.no_grad(), Multiplications() as counting:
        found = maps()
    by_boxes = counting.count
    monkeypatch.setattr(feature_ablation, "AskBoxes", lambda *_: plainly)
    with torch.no_grad(), Multiplications() as counting:
        assert difference(found, maps()) < 1e-9
    assert by_boxes < counting.count


def test_an_operation_without_a_rule_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    network = network_of(Odd(nn.Upsample(scale_factor=2, mode="bilinear"), 4), (96, 80))
    incremental._tell.cache_clear()
    ask, asked = questions(network, (96, 80))
    with torch.no_grad(), caplog.at_level("INFO", incremental.__name__):
        ask(network, *asked)
        ask(network, *asked)
    (told,) = caplog.messages
    assert told.startswith("aten.upsample_bilinear2d")


def test_single_precision_is_as_good_as_it_gets() -> None:
    torch.manual_seed(0)
    network = network_of(NETWORKS["ResNet18"](2), (96, 80), torch.float32)
    assert_equal(network, (96, 80), 1e-5)


def test_segmentation_is_explained_and_nothing_is_left() -> None:
    network = network_of(NETWORKS["UNet-batch"](2), (96, 80))
    batch = images((96, 80))
    engine = Engine(network, [Occlusion(window=40, stride=40)], Region(classes=("b",)), batch_size=8)
    assert engine.explain(batch, names(batch)).maps.abs().max() > 0
    kinds = (AskBoxes, Boxes, incremental._Handled)
    gc.collect()
    assert not [known for known in gc.get_objects() if isinstance(known, kinds)]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.module.modules())


def test_a_handled_activation_looks_like_the_whole_one() -> None:
    for shape in ((2, 3, 9, 8), (2, 1, 9, 8), (2, 3, 9, 8, 7)):
        last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        for layout in (torch.contiguous_format, last):
            known = torch.randn(shape).contiguous(memory_format=layout)
            dims = len(shape) - 2
            boxes = torch.randn(3, shape[1], *[2] * dims)
            handled = incremental._handled(
                Boxes(known, boxes, torch.tensor([[0] * dims, [5] * dims, [3] * dims]), torch.tensor([0, 1, 0]))
            )
            whole = known[[0, 1, 0]]
            for row, start in enumerate((0, 5, 3)):
                whole[row][(slice(None), *[slice(start, start + 2)] * dims)] = boxes[row]
            assert isinstance(handled, incremental._Handled)
            assert handled.shape == whole.shape and handled.dtype == whole.dtype
            strides = handled.stride(), incremental._whole(handled).stride()
            assert all(said == true for side, said, true in zip(shape, *strides, strict=True) if side > 1)
            assert handled.is_contiguous() == known.is_contiguous()
            assert torch.equal(incremental._whole(handled), whole)


def network_of(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Network:
    """Norms are of what goes through them, so that the windows reach the logits."""
    torch.manual_seed(1)
    with torch.no_grad():
        for part in module.modules():
            part.momentum = None
        module.double().train()(images(shape))
    network = wrap(module, len(shape), channels=2, shape=shape)
    network.module.to(dtype)
    return network


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(4))


def questions(network: Network, shape: tuple[int, ...]) -> tuple[AskBoxes, tuple[Tensor, Tensor, Tensor]]:
    """Windows in all corners of two images, over an edge, in the middle, and one beyond the image."""
    known = images(shape, next(network.module.parameters()).dtype)
    sides = torch.tensor((9, 6, 7)[: len(shape)])
    far = torch.tensor(shape) - sides
    corners = torch.stack([0 * far, far, far // 2, far * torch.arange(len(shape)).clamp(0, 1), far + 4, far + 50])
    image, step = torch.arange(2).repeat_interleave(6), torch.arange(6).repeat(2)
    inputs = known[image]
    for row, corner in zip(inputs, corners[step], strict=True):
        row[(slice(None), *map(slice, corner, corner + sides))] = 3.0
    at = corners.expand(2, -1, -1)
    return AskBoxes(known, at, sides.expand_as(at)), (network.prepare(inputs), image, step)


def assert_equal(network: Network, shape: tuple[int, ...], tolerance: float = 1e-9) -> None:
    ask, (inputs, image, step) = questions(network, shape)
    with torch.no_grad():
        expected = network(inputs.clone())
        found = ask(network, inputs, image, step)
    assert type(found) is Tensor
    assert difference(expected, expected.mean(0, keepdim=True).expand_as(expected)) > 1e4 * tolerance
    assert difference(found, expected) < tolerance


class Multiplications(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if incremental._Handled in types:
            return NotImplemented
        outcome = func(*args, **(kwargs or {}))
        if func is aten.convolution.default:
            self.count += outcome.numel() * args[1][0].numel()
        return outcome


def multiplications(network: Network, shape: tuple[int, ...]) -> float:
    """The cost of convolutions, as a share of those that whole images take."""
    ask, (inputs, image, step) = questions(network, shape)
    counts = []
    for way in (ask, plainly):
        with torch.no_grad(), Multiplications() as counting:
            way(network, inputs, image, step)
        counts.append(counting.count)
    return counts[0] / counts[1]
