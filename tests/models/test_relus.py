"""One forward pass for all backward rules of ReLU: nothing else changes by a bit, and each rule is what it was."""

import gc
import weakref
from collections.abc import Callable
from io import BytesIO
from typing import Any, ClassVar

import pytest
import torch
from monai.networks.nets import DenseNet121, resnet18
from torch import Tensor, nn
from torch.nn import functional

from models.engine import Engine
from models.explainers.base import MapExplainer
from models.explainers.deconvolution import Deconvolution
from models.explainers.gradcam import GradCAM
from models.explainers.guided_backprop import GuidedBackprop
from models.explainers.guided_gradcam import GuidedGradCAM
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.saliency import Saliency
from models.forms.exported import load
from models.network import Network
from models.network_config import NetworkConfig
from models.relus import Relus, stopped
from models.targets import OverThreshold, Predicted, Region, Target
from models.windows import Windows
from tests.models.networks import difference

SHAPE = (32, 24)
CLASSES = ("a", "b", "c")
BY_RULE, TWO = (GuidedBackprop(), Deconvolution()), Predicted(k=2)


class Block(nn.Module):
    """A residual block with a ReLU of the kind that is asked for, which is used twice."""

    def __init__(self, relu: Callable[[Tensor], Tensor], channels: int = 1) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(channels, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)
        self.relu = relu

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        features = self.relu(self.second(self.relu(features)) + features)
        return self.head(features.mean((2, 3)))


def exported() -> nn.Module:
    file, batch = BytesIO(), ({0: torch.export.Dim("batch")},)
    module = Block(nn.ReLU(inplace=True)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(2, 1, *SHAPE),), dynamic_shapes=batch), file)
    return load(file.getvalue())


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "functional": functional.relu,
    "functional in place": lambda x: functional.relu(inplace=True, input=x),
    "method in place": lambda x: x.relu_(),
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda relu=relu: Block(relu) for name, relu in RELUS.items()},
    "exported": exported,
    "DenseNet": lambda: DenseNet121(2, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2, 2)),
    "ResNet": lambda: resnet18(spatial_dims=2, n_input_channels=1, num_classes=3, conv1_t_stride=2),
}


def network_of(module: nn.Module, shape: tuple[int, ...] = SHAPE, **config: Any) -> Network:
    return Network(module, NetworkConfig(classes=CLASSES, input_shape=shape, **config))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def images(channels: int = 1, count: int = 5, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, channels, *shape, generator=torch.Generator().manual_seed(1))


def explained(
    network: Network,
    explainers: tuple[MapExplainer, ...],
    batch: Tensor,
    target: Target = TWO,
    batch_size: int = 4,
) -> dict[str, Tensor]:
    """Logits, and maps by explainer."""
    found = Engine(network, explainers, target, batch_size).explain(batch, [str(row) for row in range(len(batch))])
    return {"logits": found.logits, **{one.name: found.maps[:, :, place] for place, one in enumerate(explainers)}}


def check_same_bits(network: Network, batch: Tensor, plain: tuple[MapExplainer, ...], **how: Any) -> None:
    alone = explained(network, plain, batch, **how)
    beside = explained(network, (*BY_RULE, *plain), batch, **how)
    for name, values in alone.items():
        assert torch.equal(values.nan_to_num(7), beside[name].nan_to_num(7)), name
        assert values.nan_to_num().abs().sum() > 0, name


@pytest.mark.parametrize("name", MODULES)
def test_nothing_else_changes_by_a_bit(name: str) -> None:
    network = network_of(seeded(MODULES[name]))
    check_same_bits(network, images(), (Saliency(), InputXGradient(), IntegratedGradients(steps=2)))
    check_same_bits(network, images(), (Saliency(),), target=OverThreshold(threshold=0.34), batch_size=16)
    check_same_bits(network, images(), (GradCAM(),))  # whose gradient is that of a linear head, without a pass
    check_same_bits(network, images(), (Saliency(), GradCAM()))


def test_nothing_else_changes_with_several_channels_or_windows_or_in_bf16() -> None:
    check_same_bits(network_of(seeded(lambda: Block(nn.ReLU(), 3)), channels=3), images(3), (Saliency(),))
    pooled = network_of(seeded(lambda: Block(nn.ReLU())), windows=Windows(image_shape=(40, 40), pool="max"))
    check_same_bits(pooled, images(shape=(40, 40)), (Saliency(), GradCAM(layer="second")))
    mapped = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1))
    segmenting = network_of(mapped, windows=Windows(image_shape=(40, 40)))
    check_same_bits(segmenting, images(shape=(40, 40)), (Saliency(),), target=Region(classes=("a", "b")))
    rounded = Network(seeded(MODULES["ResNet"]), pooled.config.model_copy(update={"windows": None}), precision="bf16")
    check_same_bits(rounded, images(), (Saliency(),))


@pytest.mark.parametrize("name", ["in place", "functional in place", "method in place"])
def test_a_relu_in_place_whose_argument_is_used_again_is_followed(name: str) -> None:
    class Rewritten(Block):
        """The block with a ReLU in place, written without one."""

        def forward(self, images: Tensor) -> Tensor:
            features = self.first(images).relu()
            return self.head((self.second(features) + features).relu().mean((2, 3)))

    found = explained(network_of(seeded(MODULES[name]).double()), BY_RULE, images().double())
    expected = explained(network_of(seeded(lambda: Rewritten(nn.ReLU())).double()), BY_RULE, images().double())
    otherwise = explained(network_of(seeded(MODULES["module"]).double()), BY_RULE, images().double())
    for one, values in expected.items():
        assert difference(found[one], values) < 1e-12 and difference(otherwise[one], values) > 1e-3


def test_gradients_of_windows_add_up_by_every_rule() -> None:
    module = seeded(lambda: Block(nn.ReLU()))
    windows = Windows(image_shape=(64, 48), overlap=0.0, pool="mean")
    batch = images(shape=(64, 48))
    whole = explained(network_of(module, windows=windows), BY_RULE, batch, batch_size=3)
    classes = whole["logits"].topk(2).indices
    alone = network_of(module)
    for row in (slice(0, 32), slice(32, 64)):
        for column in (slice(0, 24), slice(24, 48)):
            own = Engine(alone, BY_RULE, Predicted(k=3)).explain(batch[..., row, column], [*"abcde"])
            for place, one in enumerate(BY_RULE):
                order = (own.target_class[:, None] == classes[:, :, None]).long().argmax(-1)
                expected = torch.stack([own.maps[image, order[image], place] for image in range(5)]) / 4
                assert difference(whole[one.name][..., row, column], expected) < 1e-5


class Mark:
    """An object that a graph holds for as long as the graph is there."""


class Marked(torch.autograd.Function):
    marks: ClassVar[list[weakref.ref[Mark]]] = []

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.mark = Mark()
        Marked.marks.append(weakref.ref(ctx.mark))
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def test_one_forward_pass_serves_all_rules_and_the_graph_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(seeded(lambda: Block(lambda x: functional.relu(Marked.apply(x)))))
    engine = Engine(network, [*BY_RULE, GuidedGradCAM(layer="second"), Saliency()], TWO)
    Marked.marks.clear()
    kept: list[bool] = []
    plain = torch.autograd.grad

    def noted(*given: Any, retain_graph: bool, **how: Any) -> Any:
        assert all(mark() is not None for mark in Marked.marks)
        kept.append(retain_graph)
        return plain(*given, retain_graph=retain_graph, **how)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    batch = engine.batch(images(), [*"abcde"])
    engine.maps(batch)
    assert (engine.forward_passes, engine.backward_passes) == (5, 5 * 2 * 3)
    assert kept == [True] * 5 + [False] and len(Marked.marks) == 2
    gc.collect()
    assert all(mark() is None for mark in Marked.marks) and len(batch.answers) == 2


def test_memory_that_does_not_suffice_on_the_way_back_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(seeded(MODULES["ResNet"]))
    expected = explained(network, (*BY_RULE, Saliency()), images())
    plain = torch.autograd.grad

    def cramped(score: Tensor, wanted: Any, **how: Any) -> Any:
        if len(wanted[0]) > 2:
            raise torch.OutOfMemoryError
        return plain(score, wanted, **how)

    monkeypatch.setattr(torch.autograd, "grad", cramped)
    engine = Engine(network, [*BY_RULE, Saliency()], Predicted(k=2), 5)
    found = engine.explain(images(), [*"abcde"])
    assert engine.batch_size == 2 and engine.halvings == 1
    for place, one in enumerate(engine.explainers):
        assert difference(found.maps[:, :, place], expected[one.name]) < 1e-4


def test_torchs_own_rule_is_torchs_also_where_a_value_is_not_finite() -> None:
    values = torch.tensor([-1.0, 0.0, 2.0, torch.nan, torch.inf, -torch.inf], requires_grad=True)
    with Relus() as relus:
        output = functional.relu(values)
    assert relus.seen == 1 and relus.rule is stopped
    factors = torch.tensor([3.0, torch.nan, -4.0, 5.0, torch.inf, 6.0])
    expected = torch.autograd.grad(values.relu(), values, factors)[0]
    assert torch.equal(torch.autograd.grad(output, values, factors)[0].nan_to_num(7), expected.nan_to_num(7))
