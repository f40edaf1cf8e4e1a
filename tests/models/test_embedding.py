"""An embedding is what a hook finds before the last linear layer, or in a layer, and costs no pass of its own."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.embedding import Embedding
from models.explainers.gradcam import GradCAM
from models.network import Network, NetworkConfig
from models.targets import Predicted, Region
from tests.models.networks import NETWORKS, SHAPES, images, make, names, wrap


def engine(network: Network, *explainers: Embedding | GradCAM, size: int = 2) -> Engine:
    return Engine(network, explainers, Predicted(), size)


def hooked(network: Network, layer: str, batch: torch.Tensor, *, takes: bool) -> torch.Tensor:
    """The input of a layer, or the mean over space of its output, by a hook."""
    found: list[torch.Tensor] = []
    part = network.module.get_submodule(layer)
    hook = part.register_forward_hook(lambda _, inputs, output: found.append(inputs[0] if takes else output))
    network.module(batch)
    hook.remove()
    return found[0].detach() if takes else found[0].detach().flatten(2).mean(-1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_it_is_what_a_hook_finds(kind: str, dims: int) -> None:
    network, batch = make(kind, dims), images(dims)
    *_, head = (name for name, part in network.module.named_modules() if isinstance(part, nn.Linear))
    layer = network.spatial_layers[len(network.spatial_layers) // 2]
    for own in (None, layer):
        expected = hooked(network, own or head, batch, takes=own is None)
        asked = engine(network, Embedding(layer=own))
        explained = asked.explain(batch, names(batch)).outputs["embedding"]
        assert torch.allclose(explained, expected, rtol=1e-9, atol=1e-12)
        assert asked.forward_passes == len(batch) and asked.backward_passes == 0
        (declared,) = Embedding(layer=own).declare(None, network)  # type: ignore[arg-type]
        assert declared.axes[0].labels == explained.shape[1] and (own or head) in declared.long_name


@pytest.mark.parametrize("kind", NETWORKS)
def test_logits_are_linear_in_it(kind: str) -> None:
    network, batch = make(kind, 2), images(2)
    *_, head = (part for part in network.module.modules() if isinstance(part, nn.Linear))
    explained = engine(network, Embedding()).explain(batch, names(batch))
    logits = nn.functional.linear(explained.outputs["embedding"], head.weight, head.bias)
    assert torch.allclose(logits, explained.logits, rtol=1e-9, atol=1e-9)


def convolved() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def segmenting() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 5, 4, 4), nn.ReLU(), nn.Upsample(scale_factor=4), nn.Conv2d(5, 4, 1))


@pytest.mark.parametrize(("module", "layer"), [(convolved, "2"), (segmenting, "1")])
def test_without_a_linear_layer_the_default_layer_is_pooled(module: Callable[[], nn.Module], layer: str) -> None:
    torch.manual_seed(0)
    network, batch = wrap(module()), images(2)
    target = Predicted() if not network.segments else Region(classes=("a",))
    assert network.layer(None) == layer and network.classifier is None
    found = Engine(network, [Embedding()], target, 2).explain(batch, names(batch)).outputs["embedding"]
    assert torch.allclose(found, hooked(network, layer, batch, takes=False), rtol=1e-9, atol=1e-12)


def test_one_output_for_two_classes_has_one_too() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 1)).double()
    config = NetworkConfig(
        network={"_target_": "tests.Network"}, classes=("a", "b"), activation="sigmoid", input_shape=SHAPES[2]
    )
    assert Network(module, config).classifier == "3"


def test_it_shares_the_pass_of_others_and_does_not_depend_on_the_batch() -> None:
    network, batch = make("AttentionGated", 2), images(2)
    alone = engine(network, Embedding()).explain(batch, names(batch)).outputs["embedding"]
    both = engine(network, GradCAM(), Embedding(label="last"), size=5)
    bare = engine(network, GradCAM(), size=5)
    bare.explain(batch, names(batch))
    assert torch.allclose(both.explain(batch, names(batch)).outputs["last"], alone, rtol=1e-9, atol=1e-12)
    assert (both.forward_passes, both.backward_passes) == (bare.forward_passes, bare.backward_passes)


def test_an_image_that_is_not_finite_has_none() -> None:
    network, batch = make("AttentionGated", 2), images(2)
    batch[1, 0, 3, 3] = torch.nan
    found = engine(network, Embedding()).explain(batch, names(batch)).outputs["embedding"]
    assert found.isnan().all(1).tolist() == [False, True, False, False, False]


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there is no layer 'blocs'"):
        engine(make("AttentionGated", 2), Embedding(layer="blocs"))
