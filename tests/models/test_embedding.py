"""An embedding is what a hook finds in the layer, averaged over space, and costs no pass of its own."""

import pytest
import torch
from torch import nn

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.embedding import Embedding
from models.explainers.gradcam import GradCAM
from models.network import Network
from models.targets import Predicted
from tests.models.networks import NETWORKS, images, make, names


def engine(network: Network, *explainers: Embedding | GradCAM, size: int = 2) -> Engine:
    return Engine(network, explainers, Predicted(), size)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_it_is_the_mean_of_what_a_hook_finds(kind: str, dims: int) -> None:
    network, batch = make(kind, dims), images(dims)
    layer = network.spatial_layers[len(network.spatial_layers) // 2]
    for own in (None, layer):
        found: list[torch.Tensor] = []
        hook = network.module.get_submodule(network.layer(own)).register_forward_hook(
            lambda _, __, output, found=found: found.append(output.flatten(2).mean(-1).detach())
        )
        network.module(batch)
        hook.remove()
        asked = engine(network, Embedding(layer=own))
        explained = asked.explain(batch, names(batch)).outputs["embedding"]
        assert torch.allclose(explained, found[0], rtol=1e-9, atol=1e-12)
        assert asked.forward_passes == len(batch) and asked.backward_passes == 0
        (declared,) = Embedding(layer=own).declare(None, network)  # type: ignore[arg-type]
        assert declared.axes[0].labels == explained.shape[1] and network.layer(own) in declared.long_name


@pytest.mark.parametrize("kind", ["DenseNet121", "ResNet18"])
def test_a_network_with_mean_pooling_decides_by_it(kind: str) -> None:
    network, batch = make(kind, 2), images(2)
    *_, head = (part for part in network.module.modules() if isinstance(part, nn.Linear))
    explained = engine(network, Embedding()).explain(batch, names(batch))
    logits = nn.functional.linear(explained.outputs["embedding"], head.weight, head.bias)
    assert torch.allclose(logits, explained.logits, rtol=1e-9, atol=1e-9)


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
