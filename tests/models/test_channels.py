"""Maps of each channel against oracles: autograd, Captum, sums, and a network that looks at one channel alone."""

from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

from models.engine import Engine, Explanation
from models.explainers import Explainer, MapExplainer
from models.explainers.base import CHANNEL_MAPS, CHANNEL_SHARE, MAPS, ChannelExplainer
from models.explainers.feature_ablation import FeatureAblation
from models.explainers.gradcam import GradCAM
from models.explainers.occlusion import Occlusion
from models.explainers.saliency import Saliency
from models.network import Network
from models.networks import BcosClassifier
from models.targets import Classes
from tests.models.networks import STANDARD, difference, few, images, make, names, wrap

B = Classes(classes=("b",))
CHANNELS = 3
BY_CHANNEL = [kind for kind, of in STANDARD.items() if issubclass(of, ChannelExplainer)]
SUMMED = [
    "input_x_gradient", "integrated_gradients", "expected_gradients", "deeplift", "deepshap", "lrp", "deep_taylor",
    "attn_lrp", "pattern_attribution", "bcos",
]  # fmt: skip
STRONGEST = [
    "saliency",
    "guided_backprop",
    "deconvolution",
    "smoothgrad",
    "smoothgrad_squared",
    "vargrad",
    "patternnet",
]
APART = ["guided_gradcam", "occlusion", "feature_ablation"]


def explain(network: Network, explainers: list[Explainer], batch: Tensor, keeps: bool = True) -> Explanation:
    fitted = {"background": batch[:1].flip(-1)}
    return Engine(network, explainers, B, 7, fitted, keeps_channels=keeps).explain(batch, names(batch))


def by_channel(network: Network, explainer: Explainer, batch: Tensor) -> Tensor:
    """The maps of each channel, ``(image, channel, *space)``."""
    return explain(network, [explainer], batch).outputs[CHANNEL_MAPS][:, 0, 0]


class LooksAt(nn.Module):
    """A network whose answer depends on one channel of the image alone, by the mean over places or by attention."""

    def __init__(self, channel: int, attends: bool = False) -> None:
        super().__init__()
        self.channel, self.attends = channel, attends
        self.first = nn.Conv2d(CHANNELS, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 4)
        with torch.no_grad():
            self.first.weight[:, [other for other in range(CHANNELS) if other != channel]] = 0

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.relu(self.first(inputs)).flatten(2)
        return self.head((features * features.softmax(2)).sum(2) if self.attends else features.mean(2))


def network_for(name: str) -> Network:
    """A network that the explainer is right on."""
    if name not in ("attn_lrp", "patternnet", "bcos"):
        return make("AttentionGated", 2, CHANNELS)
    torch.manual_seed(3)
    if name == "bcos":
        return wrap(BcosClassifier(2, CHANNELS, 4), 2, CHANNELS)
    return wrap(LooksAt(1, attends=name == "attn_lrp"), 2, CHANNELS)


def looks_at(channel: int, name: str) -> nn.Module:
    """A network that looks at one channel, and that the explainer is right on."""
    if name != "bcos":
        return LooksAt(channel, attends=name == "attn_lrp")
    module = BcosClassifier(2, CHANNELS, 4)
    with torch.no_grad():  # each channel has a second one that is its complement
        module.blocks[0][0].linear.weight[:, [one for one in range(2 * CHANNELS) if one % CHANNELS != channel]] = 0
    return module


def test_every_explainer_by_channel_is_held_to_a_rule_here() -> None:
    assert sorted(BY_CHANNEL) == sorted(SUMMED + STRONGEST + APART)


@pytest.mark.parametrize("name", BY_CHANNEL)
def test_the_map_is_the_same_bits_whether_channels_are_kept_or_not(name: str) -> None:
    network, batch = network_for(name), images(2, CHANNELS, 3)
    alone = explain(network, [few(name)], batch, keeps=False)
    kept = explain(network, [few(name)], batch)
    assert alone.outputs.keys() == kept.outputs.keys() - {CHANNEL_MAPS, CHANNEL_SHARE}
    assert torch.equal(alone.maps, kept.maps)


@pytest.mark.parametrize("name", SUMMED)
def test_channels_add_up_where_the_map_is_their_sum(name: str) -> None:
    found = explain(network_for(name), [few(name)], images(2, CHANNELS, 2))
    assert difference(found.outputs[CHANNEL_MAPS].sum(3), found.maps) < 1e-12


@pytest.mark.parametrize("name", STRONGEST)
def test_the_map_is_that_of_the_strongest_channel_elsewhere(name: str) -> None:
    found = explain(network_for(name), [few(name)], images(2, CHANNELS, 2))
    assert torch.equal(found.outputs[CHANNEL_MAPS].abs().amax(3), found.maps.abs())
    assert (found.outputs[CHANNEL_MAPS] == found.maps[:, :, :, None]).any(3).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_equal_autograds(dims: int) -> None:
    network, batch = make("ResNet18", dims, CHANNELS), images(dims, CHANNELS, 2)
    inputs = batch.clone().requires_grad_()
    network.module(inputs)[:, 1].sum().backward()
    assert inputs.grad is not None
    assert difference(by_channel(network, Saliency(), batch), inputs.grad) < 1e-9
    assert difference(by_channel(network, few("input_x_gradient"), batch), inputs.grad * batch) < 1e-9


@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift", "guided_backprop", "deconvolution"])
def test_paths_and_rules_equal_captums(name: str) -> None:
    torch.manual_seed(0)
    body = (nn.Conv2d(CHANNELS, 5, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 6, 3), nn.ReLU())
    network = wrap(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)), 2, CHANNELS)
    batch = images(2, CHANNELS, 2)
    ours = by_channel(network, few(name), batch)
    theirs = {
        "integrated_gradients": lambda: attr.IntegratedGradients(network.module).attribute(batch, target=1, n_steps=3),
        "deeplift": lambda: attr.DeepLift(network.module).attribute(batch, target=1),
        "guided_backprop": lambda: attr.GuidedBackprop(network.module).attribute(batch, target=1),
        "deconvolution": lambda: attr.Deconvolution(network.module).attribute(batch, target=1),
    }[name]()
    assert difference(ours, theirs) < 1e-6


def test_occlusion_of_one_channel_equals_captums() -> None:
    network, batch = make("AttentionGated", 2, CHANNELS), images(2, CHANNELS, 2)
    ours = by_channel(network, Occlusion(window=(16, 12), stride=(9, 10), fill=0.25), batch)
    theirs = attr.Occlusion(network.module).attribute(
        batch, (1, 16, 12), (1, 9, 10), 0.25, target=1, perturbations_per_eval=8
    )
    assert difference(ours, theirs) < 1e-6  # Captum adds up in single precision


def test_feature_ablation_of_one_channel_equals_captums() -> None:
    network, batch = make("AttentionGated", 2, CHANNELS), images(2, CHANNELS, 2)
    explainer = FeatureAblation(segments=6)
    ours = by_channel(network, explainer, batch)
    labels = explainer.cut(Engine(network, [explainer], B).batch(batch, names(batch))).labels
    for image, own, pieces in zip(batch, ours, labels, strict=True):
        of_channel = pieces + torch.arange(CHANNELS).view(-1, 1, 1) * (pieces.max() + 1)
        theirs = attr.FeatureAblation(network.module).attribute(image[None], target=1, feature_mask=of_channel[None])
        assert difference(own, theirs[0]) < 1e-6


@pytest.mark.parametrize("name", [name for name in BY_CHANNEL if name != "patternnet"])  # whose signal is in all
def test_all_of_the_share_is_that_of_the_channel_which_the_network_looks_at(name: str) -> None:
    torch.manual_seed(0)
    module, batch = looks_at(2, name).double(), images(2, CHANNELS, 3)
    rules: dict[str, Any] = {"composite": "epsilon"} if name == "lrp" else {}
    if name == "deep_taylor":  # z-box credits a pixel for its bounds as well: all of them are 0 beside
        batch[:, :2] = 0
    explainer = few(name).model_copy(update=rules)
    share = explain(wrap(module, 2, CHANNELS), [explainer], batch).outputs[CHANNEL_SHARE]
    assert torch.allclose(share[:, 0, 0], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(3, 3))


def test_shares_are_of_the_magnitudes_and_add_up() -> None:
    found = explain(make("ResNet18", 2, CHANNELS), [Saliency()], images(2, CHANNELS, 3)).outputs
    sums = found[CHANNEL_MAPS].abs().flatten(4).sum(-1)
    assert torch.allclose(found[CHANNEL_SHARE], sums / sums.sum(-1, keepdim=True))
    assert torch.allclose(found[CHANNEL_SHARE].sum(-1), torch.ones(3, 1, 1, dtype=torch.float64))


def test_there_is_no_share_of_a_blank_map_nor_of_an_image_that_is_not_finite() -> None:
    module = nn.Sequential(nn.Conv2d(CHANNELS, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module[0].weight.data.zero_()
    batch = images(2, CHANNELS, 2)
    batch[1, 0, 0, 0] = torch.nan
    found = explain(wrap(module, 2, CHANNELS), [Saliency()], batch).outputs
    assert (found[CHANNEL_MAPS][0] == 0).all() and found[CHANNEL_MAPS][1].isnan().all()
    assert found[CHANNEL_SHARE].isnan().all()


def test_an_explainer_that_looks_at_all_channels_at_once_has_nan_and_keeps_its_place() -> None:
    network, batch = make("ResNet18", 2, CHANNELS), images(2, CHANNELS, 2)
    kinds = [few(name) for name, kind in STANDARD.items() if issubclass(kind, MapExplainer)]
    others = [kind for kind in kinds if kind.name in ("gradcam", "rise", "lime", "kernel_shap", "control_edges")]
    found = explain(network, [GradCAM(label="first"), Saliency(), *others], batch)
    maps, share = found.outputs[CHANNEL_MAPS], found.outputs[CHANNEL_SHARE]
    assert found.maps.isfinite().all() and maps.shape[:4] == (2, 1, 2 + len(others), CHANNELS)
    for part in (maps.flatten(4), share[..., None]):
        assert part[:, :, 1].isfinite().all()
        assert part[:, :, [place for place in range(2 + len(others)) if place != 1]].isnan().all()


def test_metrics_and_members_ask_for_no_channels() -> None:
    network, batch = make("AttentionGated", 2, CHANNELS), images(2, CHANNELS, 2)
    asked = []
    for keeps in (False, True):
        engine = Engine(network, [Occlusion(window=32, stride=32)], B, keeps_channels=keeps)
        engine.maps(engine.batch(batch, names(batch)))
        asked.append(engine.forward_passes)
    assert asked[0] == asked[1]
    assert MAPS not in (CHANNEL_MAPS, CHANNEL_SHARE)
