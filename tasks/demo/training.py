"""Train the reference networks that ship with the project."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save
from sklearn.metrics import roc_auc_score

from models.networks import AttentionGatedClassifier
from models.training import fit, predict, standardise
from tasks.demo.phantom import phantom

logger = logging.getLogger(__name__)

FEATURES = {2: (12, 24, 48, 64), 3: (8, 16, 32, 48)}


class TrainingConfig(BaseModel):
    """The recipe of a reference network; with the same versions it gives the same weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spatial_dims: int = Field(2, ge=2, le=3, description="2 for slices, 3 for volumes")
    images: int = Field(4000, ge=16, description="Training images, drawn from the demo cohort's generator")
    held_out: int = Field(1000, ge=16, description="Images that only measure the AUC")
    epochs: int = Field(8, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    seed: int = 20261123


def train(config: TrainingConfig, folder: Path) -> dict[str, object]:
    """Train, and write ``attention_gated_<n>d.safetensors`` and its recipe ``.json`` into `folder`.

    Returns
    -------
    dict
        The recipe: configuration, held-out AUC and the SHA-256 of the weights.
    """
    torch.set_num_threads(1)  # sums are split among threads: their number changes the last bits
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True)
    network = AttentionGatedClassifier(config.spatial_dims, 1, 2, features=FEATURES[config.spatial_dims])
    images, labels = draw(config.images, config.spatial_dims, config.seed)
    logger.info("%d training images drawn", config.images)
    fit(
        network,
        images,
        labels,
        epochs=config.epochs,
        seed=config.seed,
        learning_rate=config.learning_rate,
        report=lambda epoch, loss: logger.info("epoch %d of %d: loss %.4f", epoch, config.epochs, loss),
    )
    images, labels = draw(config.held_out, config.spatial_dims, config.seed + 1)
    auc = roc_auc_score(labels.numpy(), predict(network, images)[:, 1].numpy())
    weights = save(network.state_dict())
    recipe: dict[str, object] = {
        **config.model_dump(),
        "features": FEATURES[config.spatial_dims],
        "held_out_auc": round(float(auc), 4),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "torch": torch.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"attention_gated_{config.spatial_dims}d"
    stem.with_suffix(".safetensors").write_bytes(weights)
    stem.with_suffix(".json").write_text(json.dumps(recipe, indent=2) + "\n")
    return recipe


def draw(count: int, spatial_dims: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images ``(count, 1, *space)``, standardised, and labels ``(count,)``: 1 where a lesion was planted."""
    phantoms = [phantom(index, spatial_dims=spatial_dims, seed=seed) for index in range(count)]
    images = torch.from_numpy(np.stack([drawn.pixels for drawn in phantoms])[:, None])
    labels = torch.tensor([int(drawn.lesion.any()) for drawn in phantoms])
    return standardise(images), labels
