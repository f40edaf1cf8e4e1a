"""Results by name: they are computed over all images. To add one: write its file, and name it here."""

from typing import Annotated

from models.producer import Registry
from models.results.base import Arrays, Result, Stored
from models.results.mean_maps import MeanMaps
from models.results.prototype_patches import PrototypePatches
from models.results.prototypes import Prototypes
from models.results.shortcuts import Shortcuts
from models.results.similar_cases import SimilarCases
from models.results.tcav import TCAV

RESULTS: Registry[Result] = Registry(MeanMaps, PrototypePatches, Prototypes, Shortcuts, SimilarCases, TCAV)

ResultConfig = Annotated[Result, RESULTS]

__all__ = [
    "RESULTS",
    "TCAV",
    "Arrays",
    "MeanMaps",
    "PrototypePatches",
    "Prototypes",
    "Result",
    "ResultConfig",
    "Shortcuts",
    "SimilarCases",
    "Stored",
]
