"""Results by name: what is computed over all images once they are explained. To add one: its file, its name here."""

from typing import Annotated

from models.producer import Registry
from models.results.base import Arrays, Result, Stored
from models.results.mean_maps import MeanMaps

RESULTS: Registry[Result] = Registry(MeanMaps)

ResultConfig = Annotated[Result, RESULTS]

__all__ = ["RESULTS", "Arrays", "MeanMaps", "Result", "ResultConfig", "Stored"]
