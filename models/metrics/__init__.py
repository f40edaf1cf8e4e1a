"""Metrics by name. To add one: write its file, and name it here."""

from typing import Annotated

from models.metrics.agreement import ExplainerAgreement, NetworkAgreement
from models.metrics.auprc import AUPRC
from models.metrics.base import MapMetric, Metric, StackMetric, Values
from models.metrics.completeness import CompletenessGap
from models.metrics.deletion import Deletion
from models.metrics.effective_complexity import EffectiveComplexity
from models.metrics.efficient_mprt import EfficientMPRT
from models.metrics.entropy import Entropy
from models.metrics.evaluate import evaluate, spacing_of
from models.metrics.gini import Gini
from models.metrics.hit_rate import HitRate
from models.metrics.impact_score import ImpactScore
from models.metrics.infidelity import Infidelity
from models.metrics.insertion import Insertion
from models.metrics.iou import IoU
from models.metrics.irof import IROF
from models.metrics.label_randomisation import LabelRandomisation
from models.metrics.max_sensitivity import MaxSensitivity
from models.metrics.random_logit import RandomLogit
from models.metrics.randomisation import Randomisation
from models.metrics.relative_input_stability import RelativeInputStability
from models.metrics.relative_output_stability import RelativeOutputStability
from models.metrics.relative_representation_stability import RelativeRepresentationStability
from models.metrics.relevance_mass import RelevanceMass
from models.metrics.relevance_rank import RelevanceRank
from models.metrics.repeatability import Repeatability
from models.metrics.road import ROADLeRF, ROADMoRF
from models.metrics.selectivity import Selectivity
from models.metrics.sensitivity_n import SensitivityN
from models.metrics.smooth_mprt import SmoothMPRT
from models.producer import Registry

METRICS: Registry[Metric] = Registry(
    Deletion,
    Insertion,
    ROADMoRF,
    ROADLeRF,
    SensitivityN,
    Infidelity,
    CompletenessGap,
    ImpactScore,
    IROF,
    Selectivity,
    HitRate,
    IoU,
    AUPRC,
    RelevanceMass,
    RelevanceRank,
    MaxSensitivity,
    RelativeInputStability,
    RelativeOutputStability,
    RelativeRepresentationStability,
    Repeatability,
    Gini,
    Entropy,
    EffectiveComplexity,
    Randomisation,
    SmoothMPRT,
    EfficientMPRT,
    RandomLogit,
    LabelRandomisation,
    ExplainerAgreement,
    NetworkAgreement,
)

MetricConfig = Annotated[Metric, METRICS]


def standard() -> tuple[Metric, ...]:
    """Make one of each kind of metric, with its standard parameters."""
    return tuple(METRICS.adapter.validate_python({"name": name}) for name in METRICS.kinds)


__all__ = [
    "METRICS",
    "MapMetric",
    "Metric",
    "MetricConfig",
    "StackMetric",
    "Values",
    "evaluate",
    "spacing_of",
    "standard",
]
