"""Explainers by name. To add one: write its file, and name it here."""

from typing import Annotated

from pydantic import Field

from models.explainers.attention import Attention
from models.explainers.base import Answer, Explainer, Needs
from models.explainers.gradcam import GradCAM
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.prediction import Prediction
from models.explainers.saliency import Saliency

ExplainerConfig = Annotated[Prediction | Saliency | InputXGradient | GradCAM | Attention, Field(discriminator="name")]

__all__ = ["Answer", "Explainer", "ExplainerConfig", "Needs"]
