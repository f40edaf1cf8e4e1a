"""Train the reference networks that ship with the project."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from models.networks import AttentionGatedClassifier, BcosClassifier, PrototypeClassifier
from models.networks.prototypes import Patch, push_and_pull
from models.training import Loss, cross_entropy, fit, predict, standardise
from tasks.demo.phantom import phantom
from tasks.demo.shipped import WEIGHTS

logger = logging.getLogger(__name__)

NETWORKS: dict[str, type[nn.Module]] = {
    "attention_gated": AttentionGatedClassifier,
    "prototypes": PrototypeClassifier,
    "bcos": BcosClassifier,
}
FEATURES = {
    ("attention_gated", 2): (12, 24, 48, 64),
    ("attention_gated", 3): (8, 16, 32, 48),
    ("prototypes", 2): (12, 24, 48),
    ("prototypes", 3): (8, 16, 32),
    ("bcos", 2): (12, 24, 48),
    ("bcos", 3): (8, 16, 32),
}


class TrainingConfig(BaseModel):
    """The recipe of a reference network; with the same versions it gives the same weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal["attention_gated", "prototypes", "bcos"] = Field(
        "attention_gated", description="Network; the others explain themselves"
    )
    spatial_dims: int = Field(2, ge=2, le=3, description="2 for slices, 3 for volumes")
    images: int = Field(4000, ge=16, description="Training images, drawn from the demo cohort's generator")
    held_out: int = Field(1000, ge=16, description="Images that only measure the AUC")
    epochs: int = Field(8, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    seed: int = 20261123
    shuffled: bool = Field(False, description="Whether each label is that of another image: there is nothing to learn")
    marker: bool = Field(False, description="Whether a marker gives the lesion away: there is a shortcut to learn")

    @property
    def stem(self) -> str:
        """Name of the files without their suffixes."""
        return f"{self.network}_{self.spatial_dims}d" + "_shuffled" * self.shuffled + "_marker" * self.marker


def train(config: TrainingConfig, folder: Path) -> dict[str, object]:
    """Train, and write ``<network>_<n>d[_shuffled][_marker].safetensors`` and its recipe ``.json`` into `folder`.

    Shuffled labels are those of the training images alone (Adebayo et al. 2018, arXiv:1810.03292, section 5): what the
    network is measured by stays true.

    Returns
    -------
    dict
        The recipe: configuration, AUC of the labels it was trained on and of the held-out ones, and the SHA-256 of the
        weights; of a network that has prototypes, also the patch of a training image that each is.
    """
    torch.set_num_threads(1)  # sums are split among threads: their number changes the last bits
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True)
    features = FEATURES[config.network, config.spatial_dims]
    network = NETWORKS[config.network](config.spatial_dims, 1, 2, features=features)
    images, labels = draw(config.images, config.spatial_dims, config.seed, marker=config.marker)
    if config.shuffled:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(config.seed))]
    logger.info("%d training images drawn", config.images)
    patches = _fit(network, images, labels, config)
    training_auc = _auc(network, images, labels)
    images, labels = draw(config.held_out, config.spatial_dims, config.seed + 1, marker=config.marker)
    weights = save(network.state_dict())
    recipe: dict[str, object] = {
        **config.model_dump(),
        "features": features,
        "training_auc": training_auc,
        "held_out_auc": _auc(network, images, labels),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "torch": torch.__version__,
    }
    if patches:
        recipe["prototypes"] = [patch._asdict() for patch in patches]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{config.stem}.safetensors").write_bytes(weights)
    (folder / f"{config.stem}.json").write_text(json.dumps(recipe, indent=2) + "\n")
    return recipe


def _fit(network: nn.Module, images: Tensor, labels: Tensor, config: TrainingConfig) -> list[Patch]:
    """Train the network; prototypes in three stages, after which each is a patch of a training image."""

    def train_by(loss_of: Loss) -> None:
        fit(
            network,
            images,
            labels,
            epochs=config.epochs,
            seed=config.seed,
            learning_rate=config.learning_rate,
            loss_of=loss_of,
            report=lambda epoch, loss: logger.info("epoch %d of %d: loss %.4f", epoch, config.epochs, loss),
        )

    if not isinstance(network, PrototypeClassifier):
        train_by(cross_entropy)
        return []
    network.blocks.load_state_dict(_trained_blocks(config.spatial_dims, len(network.blocks)))
    network.classifier.requires_grad_(False)
    train_by(push_and_pull)
    patches = network.project(images, labels)
    network.weigh(images, labels)
    return patches


def _trained_blocks(spatial_dims: int, count: int) -> dict[str, Tensor]:
    """Read the first blocks of the attention-gated network, with which prototypes begin: from nothing, they learn none.

    Chen et al. begin with the blocks of a network that was trained on other images (arXiv:1806.10574, section 2.1).
    """
    state = load_file(WEIGHTS / f"attention_gated_{spatial_dims}d.safetensors")
    first = tuple(f"blocks.{block}." for block in range(count))
    return {name.removeprefix("blocks."): value for name, value in state.items() if name.startswith(first)}


def _auc(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    return round(float(roc_auc_score(labels.numpy(), predict(network, images)[:, 1].numpy())), 4)


def draw(count: int, spatial_dims: int, seed: int, *, marker: bool = False) -> tuple[Tensor, Tensor]:
    """Images ``(count, 1, *space)``, standardised, and labels ``(count,)``: 1 where a lesion was planted."""
    phantoms = [phantom(index, spatial_dims=spatial_dims, seed=seed, marker=marker) for index in range(count)]
    images = torch.from_numpy(np.stack([drawn.pixels for drawn in phantoms])[:, None])
    labels = torch.tensor([int(drawn.lesion.any()) for drawn in phantoms])
    return standardise(images), labels
