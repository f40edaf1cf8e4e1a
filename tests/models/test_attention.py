"""Attention inside the model, against the weights that the network itself used."""

from typing import Any

import pytest
import torch
from monai.networks.nets import ViT
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.attention_rollout import AttentionRollout
from models.explainers.cam import CAM
from models.explainers.gradcam import GradCAM
from models.explainers.gradient_rollout import GradientRollout
from models.explainers.mil_attention import MILAttention
from models.network import Network
from models.networks.bag_of_slices import BagOfSlices
from models.targets import Classes
from tests.models.networks import CLASSES, SHAPES, difference, images, make, names, wrap

B = Classes(classes=("b",))


def explain(network: Network, explainer: object, batch: Tensor) -> Tensor:
    return Engine(network, [explainer], B).explain(batch, names(batch)).maps[:, 0, 0]  # type: ignore[list-item]


def vit(dims: int, save: bool = True) -> ViT:
    torch.manual_seed(0)
    patch = {2: (16, 8), 3: (16, 12, 8)}[dims]
    return ViT(1, SHAPES[dims], patch, hidden_size=24, mlp_dim=32, num_layers=3, num_heads=3, classification=True,
               num_classes=4, spatial_dims=dims, post_activation="none", save_attn=save).double()  # fmt: skip


@pytest.mark.parametrize("dims", [2, 3])
def test_rollout_multiplies_the_attention_of_all_layers(dims: int) -> None:
    module, batch = vit(dims), 3 * images(dims, count=2)
    for block in module.blocks:
        block.attn.qkv.weight.data *= 6
    found = explain(wrap(module, dims), AttentionRollout(), batch)
    module(batch)
    grid = {2: (4, 6), 3: (2, 3, 4)}[dims]
    expected = []
    for row in range(2):
        rollout = torch.eye(module.blocks[0].attn.att_mat.shape[-1]).double()
        for block in module.blocks:
            mixed = block.attn.att_mat[row].mean(0) + torch.eye(len(rollout))
            rollout = (mixed / mixed.sum(1, keepdim=True)) @ rollout
        expected.append(rollout[0, 1:].view(1, *grid))
    mode = "bilinear" if dims == 2 else "trilinear"
    resized = nn.functional.interpolate(torch.stack(expected), SHAPES[dims], mode=mode)[:, 0]
    assert difference(found, resized) < 1e-9
    assert float(found.std() / found.mean()) > 0.01


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("class_token", [True, False])
def test_gradient_rollout_multiplies_attention_by_its_gradient(dims: int, class_token: bool) -> None:
    module, batch = vit(dims) if class_token else PatchesAlone(vit(dims)), 3 * images(dims, count=2)
    for block in module.blocks:
        block.attn.qkv.weight.data *= 6
    weights: list[Tensor] = []
    network = wrap(module, dims)
    found = explain(network, GradientRollout(), batch)
    handles = [
        block.attn.drop_weights.register_forward_hook(lambda _, __, output: weights.append(output))
        for block in module.blocks
    ]
    score = network(batch.clone().requires_grad_())[:, 1].sum()
    gradients = torch.autograd.grad(score, weights)
    for handle in handles:
        handle.remove()
    assert all(float(gradient.min()) < 0 for gradient in gradients)
    expected = torch.zeros(2, 1, *{2: (4, 6), 3: (2, 3, 4)}[dims], dtype=torch.float64)
    for row in range(2):
        taken = torch.eye(weights[0].shape[-1]).double()
        for attention, gradient in zip(weights, gradients, strict=True):
            favoured = (attention[row] * gradient[row]).clamp_min(0).mean(0)
            taken = taken + favoured @ taken
        shares = taken[0, 1:] if class_token else (taken - torch.eye(len(taken))).mean(0)
        expected[row] = shares.detach().view(expected.shape[1:])
    mode = "bilinear" if dims == 2 else "trilinear"
    resized = nn.functional.interpolate(expected, SHAPES[dims], mode=mode)[:, 0]
    assert difference(found, resized) < 1e-9
    assert float(found.std() / found.mean()) > 0.01
    other = Engine(network, [GradientRollout()], Classes(classes=("c",))).explain(batch, names(batch)).maps[:, 0, 0]
    assert difference(other, found) > 0.1


class PatchesAlone(nn.Module):
    """A vision transformer without a class token, whose logits are of the mean over patches."""

    def __init__(self, whole: ViT) -> None:
        super().__init__()
        self.patch_embedding, self.blocks = whole.patch_embedding, whole.blocks
        self.head = nn.Linear(24, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("kind", [AttentionRollout, GradientRollout])
def test_rollout_says_what_it_needs(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind().name}: ResNet is not a vision transformer"):
        Engine(make("ResNet18", 2), [kind()], B)
    flash = vit(2, save=False)
    for block in flash.blocks:
        block.attn.use_flash_attention = True
    with pytest.raises(ValueError, match="flash attention keeps no weights"):
        Engine(wrap(flash), [kind()], B)


def test_the_layer_of_a_cam_is_never_one_inside_attention() -> None:
    network = wrap(vit(2))
    assert network.layer(None) == "patch_embedding.patch_embeddings"
    assert Engine(network, [GradCAM()], B).explain(images(2), names(images(2))).maps.shape == (5, 1, 1, *SHAPES[2])


@pytest.mark.parametrize("mode", ["att", "att_trans"])
def test_mil_attention_is_each_slices_weight(mode: str) -> None:
    torch.manual_seed(0)
    module, batch = BagOfSlices(1, 4, mode), images(3, count=2)[:, :, :6]
    network = wrap(module, 3, shape=tuple(batch.shape[2:]))
    found = explain(network, MILAttention(), batch)
    weights: list[Tensor] = []
    handle = module.mil.attention.register_forward_hook(lambda _, __, output: weights.append(output.softmax(1)))
    module(batch)
    handle.remove()
    assert torch.allclose(found[..., 3, 5], weights[0][..., 0])
    assert torch.allclose(found[..., 3, 5].sum(1), torch.ones(2).double())
    assert torch.equal(found, found[..., :1, :1].expand(found.shape))
    with pytest.raises(ValueError, match="mil_attention: BagOfSlices does not hold one MILModel with attention"):
        Engine(wrap(BagOfSlices(1, 4, "mean"), 3), [MILAttention()], B)


@pytest.mark.parametrize("name", ["ResNet18", "DenseNet121"])
def test_cam_is_the_heads_weights_over_the_features(name: str) -> None:
    network, batch = make(name, 2), images(2, count=2)
    features: list[Tensor] = []
    handle = network.module.get_submodule(network.layer(None)).register_forward_hook(
        lambda _, __, output: features.append(output)
    )
    logits = network.module(batch)
    handle.remove()
    *_, head = (part for part in network.module.modules() if isinstance(part, nn.Linear))
    small = torch.einsum("k,ik...->i...", head.weight[1], features[0])
    assert torch.allclose(small.flatten(1).mean(1) + head.bias[1], logits[:, 1])
    expected = nn.functional.interpolate(small[:, None], SHAPES[2], mode="bilinear")[:, 0]
    assert difference(explain(network, CAM(), batch), expected) < 1e-9


def test_cam_is_refused_where_the_head_is_not_linear_in_the_mean() -> None:
    with pytest.raises(ValueError, match=r"cam: .*not linear in the mean over space of 'gates.1'; use gradcam"):
        Engine(make("AttentionGated", 2), [CAM()], B)
    with pytest.raises(ValueError, match="not linear in the mean over space of 'layer3'"):
        Engine(make("ResNet18", 2), [CAM(layer="layer3")], B)


def test_gradcam_of_all_classes_on_a_pooled_linear_head_takes_one_forward_pass() -> None:
    network, batch = make("ResNet18", 2), images(2)
    engine = Engine(network, [GradCAM()], Classes(classes=CLASSES))
    found = engine.explain(batch, names(batch)).maps[:, :, 0]
    assert (engine.forward_passes, engine.backward_passes) == (5, 0)
    for target, name in enumerate(CLASSES):
        with_saliency = Engine(network, [GradCAM(layer="layer3"), GradCAM(label="last")], Classes(classes=(name,)))
        assert difference(found[:, target], with_saliency.explain(batch, names(batch)).maps[:, 0, 1]) < 1e-9
        assert with_saliency.backward_passes == 5
