"""Explainers by name. To add one: write its file, and name it here."""

from typing import Annotated

from models.explainers.ablationcam import AblationCAM
from models.explainers.attention import Attention
from models.explainers.attention_rollout import AttentionRollout
from models.explainers.attn_lrp import AttnLRP
from models.explainers.base import Explainer, MapExplainer
from models.explainers.bcos import Bcos
from models.explainers.cam import CAM
from models.explainers.control_centre import ControlCentre
from models.explainers.control_edges import ControlEdges
from models.explainers.control_random import ControlRandom
from models.explainers.deconvolution import Deconvolution
from models.explainers.deep_taylor import DeepTaylor
from models.explainers.deeplift import DeepLIFT
from models.explainers.deepshap import DeepSHAP
from models.explainers.eigencam import EigenCAM
from models.explainers.embedding import Embedding
from models.explainers.expected_gradients import ExpectedGradients
from models.explainers.expressive_gradients import ExpressiveGradients
from models.explainers.feature_ablation import FeatureAblation
from models.explainers.gradcam import GradCAM
from models.explainers.gradcam_plusplus import GradCAMPlusPlus
from models.explainers.gradient_rollout import GradientRollout
from models.explainers.guided_backprop import GuidedBackprop
from models.explainers.guided_gradcam import GuidedGradCAM
from models.explainers.hirescam import HiResCAM
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.kernel_shap import KernelSHAP
from models.explainers.layercam import LayerCAM
from models.explainers.lime import LIME
from models.explainers.lrp import LRP
from models.explainers.mil_attention import MILAttention
from models.explainers.occlusion import Occlusion
from models.explainers.pattern_attribution import PatternAttribution
from models.explainers.patternnet import PatternNet
from models.explainers.pooled import PooledActivations
from models.explainers.prediction import Prediction
from models.explainers.prototype_activation import PrototypeActivation
from models.explainers.rise import RISE
from models.explainers.saliency import Saliency
from models.explainers.scorecam import ScoreCAM
from models.explainers.shapley_sampling import ShapleySampling
from models.explainers.smoothgrad import SmoothGrad
from models.explainers.smoothgrad_squared import SmoothGradSquared
from models.explainers.vargrad import VarGrad
from models.explainers.xgradcam import XGradCAM
from models.producer import Registry

EXPLAINERS: Registry[Explainer] = Registry(
    Prediction,
    Embedding,
    Saliency,
    InputXGradient,
    Deconvolution,
    GuidedBackprop,
    CAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
    EigenCAM,
    ScoreCAM,
    AblationCAM,
    GuidedGradCAM,
    IntegratedGradients,
    ExpectedGradients,
    ExpressiveGradients,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
    DeepLIFT,
    DeepSHAP,
    LRP,
    AttnLRP,
    DeepTaylor,
    PatternAttribution,
    PatternNet,
    Occlusion,
    FeatureAblation,
    LIME,
    KernelSHAP,
    ShapleySampling,
    RISE,
    Attention,
    AttentionRollout,
    GradientRollout,
    MILAttention,
    PrototypeActivation,
    Bcos,
    PooledActivations,
    ControlRandom,
    ControlEdges,
    ControlCentre,
)

ExplainerConfig = Annotated[Explainer, EXPLAINERS]

__all__ = ["EXPLAINERS", "Explainer", "ExplainerConfig", "MapExplainer"]
