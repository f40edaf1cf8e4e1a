"""Networks of our own, with shipped weights in ``models/networks/weights``."""

from models.networks.attention_gated import AttentionGatedClassifier
from models.networks.bcos import BcosClassifier
from models.networks.joint_fusion import JointFusionClassifier
from models.networks.prototypes import PrototypeClassifier
from models.networks.timm import Timm
from models.networks.transformers import Transformers

__all__ = [
    "AttentionGatedClassifier",
    "BcosClassifier",
    "JointFusionClassifier",
    "PrototypeClassifier",
    "Timm",
    "Transformers",
]
