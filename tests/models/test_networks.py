import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from models.networks import AttentionGatedClassifier, attention_gated
from models.networks.attention_gated import AttentionGate
from models.training import fit, predict
from tasks.demo.training import NETWORKS, TrainingConfig, draw, train

WEIGHTS = Path(attention_gated.__file__).parent / "weights"


@pytest.mark.parametrize(("dims", "shape"), [(2, (16, 24)), (3, (16, 8, 12))])
def test_the_gate_multiplies_features_by_its_coefficients(dims: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    gate = AttentionGate(dims, features=5, gating_features=7, hidden=4)
    features, gating = torch.randn(2, 5, *shape), torch.randn(2, 7, *(size // 4 for size in shape))
    coefficients = []
    gate.coefficients.register_forward_hook(lambda _, __, output: coefficients.append(output))
    gated = gate(features, gating)
    assert coefficients[0].shape == (2, 1, *shape)
    assert torch.allclose(gated, features * coefficients[0])
    up = torch.nn.functional.interpolate(gate.phi(gating), size=shape, mode="bilinear" if dims == 2 else "trilinear")
    by_hand = torch.sigmoid(gate.coefficients[1](torch.relu(gate.theta(features) + up)))
    assert torch.allclose(coefficients[0], by_hand)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_shipped_weights_are_small_and_reach_their_recorded_auc(dims: int) -> None:
    path = WEIGHTS / f"attention_gated_{dims}d.safetensors"
    recipe = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 2_000_000
    network = AttentionGatedClassifier(dims, 1, 2, features=recipe["features"])
    network.load_state_dict(load_file(path))
    images, labels = draw(120, dims, seed=991)
    auc = roc_auc_score(labels.numpy(), predict(network, images)[:, 1].numpy())
    assert recipe["held_out_auc"] > 0.9
    assert abs(auc - recipe["held_out_auc"]) < 0.06


def test_training_is_repeatable_and_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 16, 16, generator=generator)
    labels = torch.arange(64) % 2
    images[labels == 1, :, 4:8, 4:8] += 3
    states, losses = [], []
    for _ in range(2):
        torch.manual_seed(5)
        network = AttentionGatedClassifier(2, 1, 2, features=(4, 6, 8, 8))
        fit(network, images, labels, epochs=6, seed=1, report=lambda epoch, loss: losses.append(loss))
        states.append(network.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert losses[5] < 0.3 * losses[0]
    assert roc_auc_score(labels, predict(network, images)[:, 1]) > 0.95


@pytest.mark.parametrize("name", ["prototypes", "bcos"])
def test_networks_that_explain_themselves_are_trained_to_weights_that_fit(name: Any, tmp_path: Path) -> None:
    recipe = train(TrainingConfig(network=name, images=16, held_out=16, epochs=1), tmp_path)
    network = NETWORKS[name](2, 1, 2, features=recipe["features"])
    network.load_state_dict(load_file(tmp_path / f"{name}_2d.safetensors"))
    assert 0 <= float(str(recipe["held_out_auc"])) <= 1
    assert len(recipe.get("prototypes", [])) == (10 if name == "prototypes" else 0)  # type: ignore[arg-type]
