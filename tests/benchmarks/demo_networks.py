"""Trained networks that benchmarks measure errors on, and images of the demo's kind that they were not trained on."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.network import Network
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier
from models.training import fit
from tasks.demo.phantom import GRID
from tasks.demo.shipped import WEIGHTS
from tasks.demo.training import FEATURES, draw

CACHE = Path("out/benchmarks")
IMAGES_SEED, TRAINING_SEED = 7, 99


def network_of(name: str) -> Network:
    dims = 3 if name == "3-D" else 2
    config = NetworkConfig(network={"_target_": "a.B"}, classes=("normal", "lesion"), input_shape=GRID[dims])
    return Network(with_gelu() if name == "2-D, GELU" else trained(dims), config)


def trained(dims: int) -> nn.Module:
    module = AttentionGatedClassifier(dims, 1, 2, features=FEATURES["attention_gated", dims])
    module.load_state_dict(load_file(WEIGHTS / f"attention_gated_{dims}d.safetensors"))
    return module


def with_gelu() -> nn.Module:
    """The network of slices with another activation; it is trained on for some 15 s of CPU, once."""
    module, kept = trained(2), CACHE / "attention_gated_2d_gelu.safetensors"
    for part in [*module.modules()]:
        for name, child in part.named_children():
            if isinstance(child, nn.ReLU):
                setattr(part, name, nn.GELU())
    if kept.exists():
        module.load_state_dict(load_file(kept))
        return module
    images, labels = draw(400, 2, TRAINING_SEED)
    fit(module, images, labels, epochs=1, seed=0, learning_rate=1e-3)
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), kept)
    return module


def images_of(network: Network, count: int) -> Tensor:
    return network.prepare(draw(count, network.config.spatial_dims, IMAGES_SEED)[0])
