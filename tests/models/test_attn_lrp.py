"""AttnLRP against its propositions, written out in NumPy for one block of attention, and conservation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import ViT
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.engine import Engine
from models.explainers.attn_lrp import AttnLRP
from models.explainers.lrp import LRP, Epsilon
from models.network import Network
from models.targets import Classes
from tests.models.networks import SHAPES, difference, images, make, names, wrap

B = Classes(classes=("b",))
TOKENS, FEATURES = 6, 5
EXACT = (Epsilon(epsilon=0.0),)
MASK = torch.zeros(TOKENS, TOKENS, dtype=torch.float64).index_fill(1, torch.tensor([2]), -torch.inf)
Array = NDArray[np.float64]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

ATTENDS: dict[str, Attend] = {
    "matmul": lambda q, k, v: (torch.matmul(q, k.transpose(1, 2)) * FEATURES**-0.5).softmax(-1) @ v,
    "bmm": lambda q, k, v: torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) / FEATURES**0.5, -1), v),
    "einsum": lambda q, k, v: torch.einsum(
        "bxy,byd->bxd", (torch.einsum("bxd,byd->bxy", q, k) * FEATURES**-0.5).softmax(dim=-1), v
    ),
    "fused": functional.scaled_dot_product_attention,
    "fused, scaled": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, scale=0.3),
    "fused, masked": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, MASK),
    "fused, masked by truth": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, MASK == 0),
}


class Block(nn.Module):
    """A block of attention whose tokens are the rows of the image."""

    def __init__(self, attend: Attend, bias: bool = True, norm: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(FEATURES, FEATURES, bias) for _ in range(3))
        self.norm = nn.LayerNorm(FEATURES, elementwise_affine=False) if norm else nn.Identity()
        self.head, self.attend = nn.Linear(TOKENS * FEATURES, 4, bias), attend

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x[:, 0])
        return self.head(self.attend(self.query(tokens), self.key(tokens), self.value(tokens)).flatten(1))


def block(attend: Attend, **how: bool) -> Network:
    torch.manual_seed(0)
    network = wrap(Block(attend, **how), shape=(TOKENS, FEATURES))
    for layer in (network.module.query, network.module.key):
        layer.weight.data *= 4  # attention that is not even
    return network


def tokens(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, TOKENS, FEATURES, dtype=torch.float64, generator=generator)


def explain(network: Network, explainer: Any, batch: Tensor) -> Tensor:
    return Engine(network, [explainer], B).explain(batch, names(batch)).maps[:, 0, 0]


def of_linear(layer: nn.Linear, x: Array, relevance: Array) -> Array:
    """``R_i = sum_j w_ji x_i / z_j R_j`` for each token."""
    w, b = layer.weight.numpy(), layer.bias.numpy()
    return np.stack([x[t] * (w.T @ (relevance[t] / (w @ x[t] + b))) for t in range(len(x))])


def of_product(a: Array, b: Array, relevance: Array) -> tuple[Array, Array]:
    """Proposition 3.3: ``R_ji = sum_p a_ji b_ip R_jp / (2 o_jp)``, and the same of the other factor."""
    shares = a[:, :, None] * b[None] * (relevance / (2 * (a @ b)))[:, None]
    return shares.sum(2), shares.sum(0)


def by_hand(module: Any, image: Array, scale: float, mask: Array) -> Array:
    """The relevance of each pixel, layer by layer."""
    q, k, v = (image @ part.weight.numpy().T + part.bias.numpy() for part in (module.query, module.key, module.value))
    scores = q @ k.T * scale
    e = np.exp(scores + mask)
    weights = e / e.sum(1, keepdims=True)
    above = (
        module.head.weight[1].numpy() * (weights @ v).ravel()
    )  # the last layer has one output, which is its relevance
    of_weights, of_values = of_product(weights, v, above.reshape(TOKENS, FEATURES))
    of_scores = scores * (of_weights - weights * of_weights.sum(1, keepdims=True))  # proposition 3.1
    of_queries, of_keys = of_product(q, k.T, of_scores)
    parts = ((module.query, of_queries), (module.key, of_keys.T), (module.value, of_values))
    return sum(of_linear(layer, image, relevance) for layer, relevance in parts)


@pytest.mark.parametrize("kind", ATTENDS)
def test_relevance_follows_the_propositions(kind: str) -> None:
    network, batch = block(ATTENDS[kind]), tokens()
    scale = 0.3 if kind == "fused, scaled" else FEATURES**-0.5
    mask = MASK.numpy() if "masked" in kind else np.zeros((TOKENS, TOKENS))
    expected = np.stack([by_hand(network.module, image, scale, mask) for image in batch[:, 0].numpy()])
    found = explain(network, AttnLRP(rules=EXACT), batch)
    assert difference(found, torch.as_tensor(expected)) < 1e-9
    if "fused" not in kind:
        assert difference(explain(network, LRP(rules=EXACT), batch), torch.as_tensor(expected)) > 0.1


@pytest.mark.parametrize("norm", [False, True])
def test_products_and_norms_conserve_relevance(norm: bool) -> None:
    network, batch = block(lambda q, k, v: q @ k.transpose(1, 2) @ v, bias=False, norm=norm), tokens()
    found = explain(network, AttnLRP(rules=EXACT), batch)
    logits = network.module(batch)[:, 1]
    assert torch.allclose(found.flatten(1).sum(1), logits)
    gradient = torch.autograd.functional.jacobian(lambda x: network.module(x)[:, 1].sum(), batch)[:, 0]
    assert norm or torch.allclose((gradient * batch[:, 0]).flatten(1).sum(1), 3 * logits)  # of three factors


def test_a_factor_that_is_there_twice_has_both_halves() -> None:
    network, batch = wrap(nn.Sequential(Squared(), nn.Flatten(), nn.Linear(30, 4, bias=False)), shape=(6, 5)), tokens()
    expected = batch.flatten(1).square() * network.module[2].weight[1]
    assert difference(explain(network, AttnLRP(rules=EXACT), batch).flatten(1), expected) < 1e-9


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("flash", [False, True])
def test_a_vision_transformer_has_the_same_map_alone_and_whoever_computes_its_attention(dims: int, flash: bool) -> None:
    torch.manual_seed(0)
    patch = {2: 16, 3: (16, 12, 8)}[dims]
    module = ViT(1, SHAPES[dims], patch, hidden_size=24, mlp_dim=32, num_layers=2, num_heads=3, classification=True,
                 num_classes=4, spatial_dims=dims, post_activation="none").double()  # fmt: skip
    batch = images(dims, count=2)
    expected = explain(wrap(module, dims), AttnLRP(), batch)
    assert expected.abs().amax() > 0
    for part in module.blocks:
        part.attn.use_flash_attention = flash
    network = wrap(module, dims)
    found = torch.cat([explain(network, AttnLRP(), batch[[row]]) for row in range(2)])
    assert difference(found, expected) < 1e-9
    assert difference(explain(network, AttnLRP(composite="epsilon"), batch), expected) > 1e-3


@pytest.mark.parametrize("name", ["ResNet18", "AttentionGated"])
def test_a_network_without_attention_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"attn_lrp: \w+ has no attention by softmax.* its relevance is that of lrp"):
        Engine(make(name, 2), [AttnLRP()], B)


@pytest.mark.parametrize("constant", ["query", "value"])
def test_a_factor_that_is_the_same_for_all_images_takes_no_relevance(constant: str) -> None:
    """Queries that were learnt, as in pooling by attention: fused attention hands back as it does written out."""
    learnt = torch.randn(1, TOKENS, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def attend(kind: str) -> Attend:
        def attending(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            own = learnt.expand(len(q), -1, -1)
            return ATTENDS[kind](*((own, k, v) if constant == "query" else (q, k, own)))

        return attending

    fused, written_out = (explain(block(attend(kind)), AttnLRP(rules=EXACT), tokens()) for kind in ("fused", "matmul"))
    assert difference(fused, written_out) < 1e-9


def test_fused_attention_in_causal_order_is_refused() -> None:
    with pytest.raises(ValueError, match="no rule for scaled_dot_product_attention with dropout, causal order"):
        Engine(block(lambda *x: functional.scaled_dot_product_attention(*x, is_causal=True)), [AttnLRP()], B)
