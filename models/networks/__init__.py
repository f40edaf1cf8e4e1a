"""Networks of our own, with shipped weights in ``models/networks/weights``."""

from models.networks.attention_gated import AttentionGatedClassifier

__all__ = ["AttentionGatedClassifier"]
