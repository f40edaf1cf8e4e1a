"""Networks of our own, with shipped weights in ``models/networks/weights``."""

from models.networks.attention_gated import AttentionGatedClassifier
from models.networks.joint_fusion import JointFusionClassifier
from models.networks.timm import Timm
from models.networks.transformers import Transformers

__all__ = ["AttentionGatedClassifier", "JointFusionClassifier", "Timm", "Transformers"]
