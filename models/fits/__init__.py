"""Fits by name, computed from some images before any is explained. To add one: write its file, and name it here."""

from typing import Annotated

from models.fits.background import Background
from models.fits.base import Fit, Known
from models.producer import Registry

FITS: Registry[Fit] = Registry(Background)

FitConfig = Annotated[Fit, FITS]

__all__ = ["FITS", "Background", "Fit", "FitConfig", "Known"]
