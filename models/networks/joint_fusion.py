"""Classifier of an image and the record beside it."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.networks.attention_gated import AttentionGatedClassifier


class JointFusionClassifier(nn.Module):
    """Joint fusion (Huang et al. 2020, doi:10.1038/s41746-020-00341-z) of an attention-gated classifier with a record.

    ``logits = head(relu(image(x) + record(r)))``: pooled features and record go through a linear layer together, so
    that a field may count more with some images than with others.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    in_channels
        Channels of the image.
    num_classes
        Length of the logits.
    fields
        Numbers in a record.
    features
        Channels of the four blocks.
    hidden
        Width of the layer that takes both.

    Notes
    -----
    Input ``(batch, in_channels, *space)`` and ``(batch, fields)``, output logits ``(batch, num_classes)``.
    """

    attention_layers = tuple(f"image.{name}" for name in AttentionGatedClassifier.attention_layers)

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        fields: int,
        features: Sequence[int] = (12, 24, 48, 64),
        hidden: int = 32,
    ) -> None:
        super().__init__()
        self.image = AttentionGatedClassifier(spatial_dims, in_channels, hidden, features)
        self.record = nn.Linear(fields, hidden)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor, record: Tensor) -> Tensor:
        logits: Tensor = self.head((self.image(images) + self.record(record)).relu())
        return logits
