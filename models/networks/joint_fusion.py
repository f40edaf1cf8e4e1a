"""Classifier of an image and the record beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks.attention_gated import AttentionGatedClassifier


class JointFusionClassifier(AttentionGatedClassifier):
    """Attention-gated classifier that joins a record to the features of the image (Huang et al. 2020, joint fusion).

    The pooled features and the record are concatenated and classified by two layers, so that a field may count more
    with some images than with others (doi:10.1038/s41746-020-00341-z, figure 2, type I).

    Parameters
    ----------
    fields
        Numbers in a record.
    hidden
        Width of the layer that takes both.

    Notes
    -----
    Input ``(batch, in_channels, *space)`` and ``(batch, fields)``, output logits ``(batch, num_classes)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        fields: int,
        features: Sequence[int] = (12, 24, 48, 64),
        hidden: int = 32,
    ) -> None:
        super().__init__(spatial_dims, in_channels, num_classes, features)
        pooled = sum(features[1:])
        both = nn.Linear(pooled + fields, hidden)
        self.classifier = nn.Sequential(both, nn.ReLU(), nn.Linear(hidden, num_classes))

    def forward(self, images: Tensor, record: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.cat([self.pooled(images), record], dim=1))
        return logits
