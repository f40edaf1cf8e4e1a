"""Heads that follow a backbone: a linear probe of its features, or their similarity to references."""

from collections.abc import Mapping
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from models.answers import part_of
from models.composed import Composed
from models.errors import ConfigurationError
from models.weights import state_dict

Pool = Literal["mean", "first"]


class HeadConfig(BaseModel):
    """The head that follows a network whose output are features."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Expected digest of its file")
    pool: Pool = Field(
        "mean", description="mean: of the features over places or tokens; first: those of the first token, the class's"
    )


class Headed(Composed):
    """A backbone, and a head that makes answers of its pooled features.

    Parameters
    ----------
    backbone
        A network that returns features ``(image, feature)``, ``(image, token, feature)`` or ``(image, feature,
        *space)``; its layers are ``backbone.`` and their own name.
    head
        A module from ``(image, feature)`` to ``(image, class)``.
    output
        The part of what the backbone returns that counts.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, output: str | int | None, pool: Pool) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.output, self.pool = output, pool

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        return (self.backbone,)

    def title(self, of: str) -> str:
        return f"{of} and {'a linear head' if isinstance(self.head, nn.Linear) else 'its similarity to references'}"

    def forward(self, *inputs: Tensor) -> Tensor:
        features = part_of(self.backbone(*inputs), self.output, type(self.backbone).__name__)
        answers: Tensor = self.head(_pooled(features, self.pool))
        return answers


def _pooled(features: Tensor, pool: Pool) -> Tensor:
    if features.ndim == 3:
        return features[:, 0] if pool == "first" else features.mean(1)
    if pool == "first":
        raise ConfigurationError(
            f"pool is first, but the network returns {tuple(features.shape)}, which are no tokens: set `pool: mean`"
        )
    return features.mean(tuple(range(2, features.ndim))) if features.ndim > 3 else features


class Similarity(nn.Module):
    """Cosine similarity of features to references.

    Parameters
    ----------
    references
        ``(class, feature)``.

    Notes
    -----
    Input ``(image, feature)``, output ``(image, class)`` in [-1, 1].
    """

    references: Tensor

    def __init__(self, references: Tensor) -> None:
        super().__init__()
        self.register_buffer("references", references)

    def forward(self, features: Tensor) -> Tensor:
        return cosine_similarity(features[:, None], self.references[None], dim=-1)


def linear_probe(data: bytes) -> nn.Linear:
    """Make a linear layer of its file: a state dict of a weight ``(class, feature)`` and, if any, a bias ``(class,)``.

    Raises
    ------
    ConfigurationError
        If the file holds anything else.
    """
    _, state = state_dict(data, None, "model.head")
    weights = [value for value in state.values() if value.ndim == 2]
    biases = [value for value in state.values() if value.ndim == 1]
    if len(weights) != 1 or len(biases) > 1 or len(state) > 2 or any(len(bias) != len(weights[0]) for bias in biases):
        raise ConfigurationError(
            f"model.head: the file holds {_shapes(state)}: a weight (class, feature) and a bias (class) were expected"
        )
    probe = nn.Linear(weights[0].shape[1], len(weights[0]), bias=bool(biases))
    own = {"weight": weights[0], **({"bias": biases[0]} if biases else {})}
    probe.load_state_dict(own)
    return probe


def references(data: bytes, classes: tuple[str, ...]) -> Similarity:
    """Read reference features of each class.

    Parameters
    ----------
    data
        Safetensors of a vector by the name of each class, or a .npy file ``(class, feature)`` in the order of classes.

    Raises
    ------
    ConfigurationError
        If a class has no reference, or the file holds anything but vectors.
    """
    found = _of_numpy(data, classes) if data.startswith(b"\x93NUMPY") else state_dict(data, None, "model.reference")[1]
    if missing := [name for name in classes if name not in found]:
        raise ConfigurationError(
            f"model.reference: there is no vector {missing[0]!r}, a name of model.classes; the file holds "
            f"{', '.join(map(repr, found))}"
        )
    vectors = [found[name].float() for name in classes]
    if {vector.ndim for vector in vectors} != {1} or len({len(vector) for vector in vectors}) > 1:
        raise ConfigurationError(
            f"model.reference: the file holds {_shapes(found)}: vectors of one length were expected"
        )
    if any(not bool(vector.isfinite().all() and vector.any()) for vector in vectors):
        raise ConfigurationError("model.reference: a vector is zero, or has values that are not finite")
    return Similarity(torch.stack(vectors))


def _of_numpy(data: bytes, classes: tuple[str, ...]) -> dict[str, Tensor]:
    try:
        values = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ConfigurationError("model.reference: the .npy file is damaged, or holds objects: save floats") from error
    rows = np.atleast_2d(values)
    if rows.ndim != 2 or len(rows) != len(classes) or not np.issubdtype(rows.dtype, np.floating):
        raise ConfigurationError(
            f"model.reference: the file holds {values.dtype} {values.shape}: one row of floats for each of "
            f"{len(classes)} classes was expected"
        )
    return dict(zip(classes, torch.from_numpy(rows.astype(np.float32)), strict=True))


def _shapes(state: Mapping[str, Tensor]) -> str:
    shown = [f"{name} {tuple(value.shape)}" for name, value in list(state.items())[:4]]
    return ", ".join(shown) + f" and {len(state) - 4} more" * (len(state) > 4)
