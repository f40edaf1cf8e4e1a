"""Every explainer on every network: a map depends on the image alone, and the network stays what it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks.nets import DenseNet121, EfficientNetBN, SegResNet, SEResNet50, UNet, ViT, resnet18, resnet50
from scipy.stats import spearmanr
from torch import Tensor, nn

from models.engine import Engine
from models.explainers import EXPLAINERS
from models.explainers.base import CHANNEL_MAPS, CHANNEL_SHARE, ChannelExplainer, MapExplainer
from models.network import Network
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier, BcosClassifier, PrototypeClassifier
from models.networks.bag_of_slices import BagOfSlices
from models.targets import Classes, Region
from tests.models.networks import CLASSES, STANDARD, few
from tests.soak import SOAK

SHAPES = {2: (64, 48), 3: (24, 24, 24)}


def vision_transformer(dims: int, channels: int = 1) -> nn.Module:
    return ViT(channels, SHAPES[dims], 8, hidden_size=24, mlp_dim=32, num_layers=2, num_heads=3, classification=True,
               num_classes=4, spatial_dims=dims, post_activation="none")  # fmt: skip


def in_a_chain(channels: int) -> nn.Module:
    body = (nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "DenseNet121": lambda dims: DenseNet121(dims, 1, 4, dropout_prob=0.2),
    "ResNet18": lambda dims: resnet18(spatial_dims=dims, n_input_channels=1, num_classes=4, conv1_t_stride=2),
    "ResNet50": lambda dims: resnet50(spatial_dims=dims, n_input_channels=1, num_classes=4, conv1_t_stride=2),
    "EfficientNet-B0": lambda dims: EfficientNetBN(
        "efficientnet-b0", spatial_dims=dims, in_channels=1, num_classes=4, pretrained=False
    ),
    "SEResNet50": lambda dims: SEResNet50(spatial_dims=dims, in_channels=1, num_classes=4),
    "ViT": vision_transformer,
    "UNet": lambda dims: UNet(dims, 1, 4, (4, 8, 16), (2, 2), dropout=0.2),
    "SegResNet": lambda dims: SegResNet(dims, 8, 1, 4),
    "AttentionGated": lambda dims: AttentionGatedClassifier(dims, 1, 4),
    "BagOfSlices": lambda dims: BagOfSlices(1, 4),
    "Prototypes": lambda dims: PrototypeClassifier(dims, 1, 4, prototypes=2),
    "Bcos": lambda dims: BcosClassifier(dims, 1, 4),
}  # fmt: skip
KINDS = [name for name, kind in STANDARD.items() if issubclass(kind, MapExplainer)]
A_QUESTION_A_FEATURE = {"scorecam", "ablationcam"}  # hundreds of them: on the smallest network only
ENDS_IN_ONE_PLACE = {"ResNet18", "ResNet50", "EfficientNet-B0", "SEResNet50", "DenseNet121"}  # in the volumes below
GUIDED = {"guided_backprop", "deconvolution", "guided_gradcam", "deep_taylor"}
RESCALED = {"deeplift", "deepshap"}
RELEVANCE = {"lrp", "deep_taylor", "pattern_attribution"}
NORMED = {"pattern_attribution"}  # no pattern is known of norms by the image
LAYER = {kind for kind in KINDS if kind.endswith("cam") or kind == "gradcam_plusplus"}
ROLLOUT = {"attention_rollout", "gradient_rollout"}
OF_OTHERS = {"attention", "attn_lrp", "mil_attention", "patternnet", "prototype_activation", "bcos"} | ROLLOUT
REFUSED: dict[str, set[str]] = {
    "DenseNet121": OF_OTHERS,
    "ResNet18": OF_OTHERS,
    "ResNet50": OF_OTHERS,
    "EfficientNet-B0": OF_OTHERS | GUIDED | {"expressive_gradients"},
    "SEResNet50": OF_OTHERS,
    "ViT": OF_OTHERS - ROLLOUT - {"attn_lrp"} | GUIDED | RESCALED | NORMED | {"cam"},
    "UNet": OF_OTHERS | GUIDED | RESCALED | NORMED | {"cam"},
    "SegResNet": OF_OTHERS | RESCALED | NORMED | {"cam"},
    "AttentionGated": OF_OTHERS - {"attention"} | {"cam"},
    "BagOfSlices": OF_OTHERS - {"mil_attention", "attn_lrp"} | LAYER | RESCALED | {"expressive_gradients"},
    "Prototypes": OF_OTHERS - {"prototype_activation"} | RESCALED | RELEVANCE | {"cam"},
    "Bcos": OF_OTHERS - {"bcos"} | GUIDED | RESCALED | RELEVANCE | {"cam"},
}
AS_VOLUMES = {"ResNet18", "ViT", "UNet", "AttentionGated", "BagOfSlices", "Prototypes", "Bcos"}
"""One network of each kind; the others take volumes in a soak, since these are half of the tests' time."""

CASES = [
    (name, dims)
    for name in NETWORKS
    for dims in (2, 3)
    if (name, dims) != ("BagOfSlices", 2) and (dims == 2 or name in AS_VOLUMES or SOAK)
]


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_a_map_is_the_same_alone_in_a_batch_in_any_order_and_after_any_other_explainer(name: str, dims: int) -> None:
    network = _network(name, dims)
    state = {key: value.clone() for key, value in network.module.state_dict().items()}
    batch = torch.randn(2, 1, *network.config.input_shape, generator=torch.Generator().manual_seed(6))
    target = Region(classes=("b",)) if network.segments else Classes(classes=("b",))
    engines = _accepted(network, batch, target, name, dims)
    explainers = [engine.explainers[0] for engine in engines]
    fitted = {"background": batch[:1]}
    together = Engine(network, explainers, target, batch_size=32, fitted=fitted).explain(batch, ("one", "two"))
    for index, engine in enumerate(engines):
        other_way = engine.explain(batch.flip(0), ("two", "one")).maps.flip(0)
        _assert_equal(other_way[:, 0, 0], together.maps[:, 0, index], explainers[index].name)
    assert all(torch.equal(state[key], value) for key, value in network.module.state_dict().items())
    for part in network.module.modules():
        assert not part.training
        assert not part._forward_hooks and not part._forward_pre_hooks and not part._backward_hooks
    assert not any(value.requires_grad or value.grad is not None for value in network.module.parameters())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(EXPLAINERS.kinds[kind], ChannelExplainer)])
def test_the_map_of_a_channel_is_the_same_alone_in_a_batch_and_in_any_order(kind: str) -> None:
    torch.manual_seed(5)
    config = NetworkConfig(network={"_target_": "tests.Network"}, classes=CLASSES, channels=3, input_shape=SHAPES[2])
    others = {
        "attn_lrp": lambda: vision_transformer(2, 3),
        "patternnet": lambda: in_a_chain(3),
        "bcos": lambda: BcosClassifier(2, 3, 4),
    }
    network = Network(others.get(kind, lambda: AttentionGatedClassifier(2, 3, 4))(), config)
    batch = torch.randn(2, 3, *SHAPES[2], generator=torch.Generator().manual_seed(6))
    found = {}
    for order, size in (((0, 1), 32), ((1, 0), 1)):
        fitted, ids = {"background": batch[:1].flip(-1)}, [("one", "two")[row] for row in order]
        engine = Engine(network, [few(kind)], Classes(classes=("b",)), size, fitted, keeps_channels=True)
        outputs = engine.explain(batch[list(order)], ids).outputs
        found[size] = [outputs[name][list(order)][:, 0, 0] for name in (CHANNEL_MAPS, CHANNEL_SHARE)]
    for together, alone in zip(*found.values(), strict=True):
        _assert_equal(alone, together, kind)


def _network(name: str, dims: int) -> Network:
    torch.manual_seed(5)
    shape = (32, 32, 32) if dims == 3 and name in ("DenseNet121", "EfficientNet-B0") else SHAPES[dims]
    config = NetworkConfig(network={"_target_": "tests.Network"}, classes=CLASSES, input_shape=shape)
    return Network(NETWORKS[name](dims), config)


def _accepted(network: Network, batch: Tensor, target: Any, name: str, dims: int) -> list[Engine]:
    """An engine for each explainer that is right on the network; the others are refused by name before the run."""
    left_out = {"prediction"} | (A_QUESTION_A_FEATURE if (name, dims) != ("AttentionGated", 2) else set())
    accepted, refused = [], set()
    for kind in (kind for kind in KINDS if kind not in left_out):
        explainer = few(kind)
        try:
            accepted.append(Engine(network, [explainer], target, batch_size=1, fitted={"background": batch[:1]}))
        except ValueError as error:
            refused.add(str(error).partition(":")[0])
    in_one_place = {"cam"} if dims == 3 and name in ENDS_IN_ONE_PLACE else set()
    assert refused == (REFUSED[name] | in_one_place) - left_out
    return accepted


def _assert_equal(one: Tensor, other: Tensor, what: str) -> None:
    """Single precision flips ReLUs and maxima in single images: the median tells, and the order of pixels."""
    assert one.isfinite().all() and other.isfinite().all(), what
    differences = (one - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1).clamp_min(1e-30)
    assert differences.median() < 1e-2, what
    if differences.median() > 1e-4:
        assert spearmanr(one.flatten(), other.flatten()).statistic > 0.99, what
