"""Results by name: they are computed over all images. To add one: write its file, and name it here."""

from typing import Annotated

from models.producer import Registry
from models.results.base import Arrays, Result, Stored
from models.results.class_visualisation import ClassVisualisation
from models.results.concept_visualisation import ConceptVisualisation
from models.results.mean_maps import MeanMaps
from models.results.prototype_patches import PrototypePatches
from models.results.prototypes import Prototypes
from models.results.rcv import RCV
from models.results.shortcuts import Shortcuts
from models.results.similar_cases import SimilarCases
from models.results.tcav import TCAV
from models.results.visualisation import Visualisation
from models.results.words import Words

RESULTS: Registry[Result] = Registry(
    ClassVisualisation,
    ConceptVisualisation,
    MeanMaps,
    PrototypePatches,
    Prototypes,
    RCV,
    Shortcuts,
    SimilarCases,
    TCAV,
    Words,
)

ResultConfig = Annotated[Result, RESULTS]

__all__ = [
    "RCV",
    "RESULTS",
    "TCAV",
    "Arrays",
    "ClassVisualisation",
    "ConceptVisualisation",
    "MeanMaps",
    "PrototypePatches",
    "Prototypes",
    "Result",
    "ResultConfig",
    "Shortcuts",
    "SimilarCases",
    "Stored",
    "Visualisation",
    "Words",
]
