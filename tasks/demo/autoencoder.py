"""Train the autoencoder that ships with the project, in whose latent space counterfactuals are looked for."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save
from torch import Tensor, nn

from models.training import fit_autoencoder
from tasks.demo.phantom import GRID
from tasks.demo.training import draw

logger = logging.getLogger(__name__)

NAME = "autoencoder_2d"
ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 2,
    "in_shape": [1, *GRID[2]],
    "out_channels": 1,
    "latent_size": 32,
    "channels": [16, 24, 32, 32],
    "strides": [2, 2, 2, 2],
    "act": "RELU",
    "norm": "BATCH",
    "use_sigmoid": False,
}
"""Arguments of MONAI's `VarAutoEncoder`: in two dimensions, since in three its weights would be larger than 1 MB."""


class AutoencoderTraining(BaseModel):
    """The recipe of the autoencoder; with the same versions it gives the same weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(1000, ge=16, description="Training images, drawn from the demo cohort's generator")
    held_out: int = Field(200, ge=16, description="Images that only measure the error")
    epochs: int = Field(24, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    prior: float = Field(0.5, ge=0, description="Weight of the divergence from the prior")
    seed: int = 20261123


def train_autoencoder(config: AutoencoderTraining, folder: Path) -> dict[str, object]:
    """Train, and write ``autoencoder_2d.safetensors`` and its recipe ``.json`` into `folder`.

    Returns
    -------
    dict
        The recipe: configuration, arguments of the network, the mean squared error of held-out images, each of which
        has the variance 1, and the SHA-256 of the weights.
    """
    from monai.networks.nets import VarAutoEncoder

    torch.set_num_threads(1)  # sums are split among threads: their number changes the last bits
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True)
    network = VarAutoEncoder(**ARGUMENTS)
    images, _ = draw(config.images, 2, config.seed)
    fit_autoencoder(
        network,
        images,
        epochs=config.epochs,
        seed=config.seed,
        prior=config.prior,
        learning_rate=config.learning_rate,
        report=lambda epoch, loss: logger.info("epoch %d of %d: loss %.4f", epoch, config.epochs, loss),
    )
    images, _ = draw(config.held_out, 2, config.seed + 1)
    weights = save(network.state_dict())
    recipe: dict[str, object] = {
        **config.model_dump(),
        "network": ARGUMENTS,
        "held_out_error": round(_error(network, images), 4),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "torch": torch.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.safetensors").write_bytes(weights)
    (folder / f"{NAME}.json").write_text(json.dumps(recipe, indent=2) + "\n")
    return recipe


@torch.inference_mode()
def _error(network: nn.Module, images: Tensor) -> float:
    own: Any = network
    means, _ = own.encode_forward(images)
    return float((own.decode_forward(means, use_sigmoid=False) - images).square().mean())
