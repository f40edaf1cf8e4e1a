"""Fits by name: what is computed from some images before the others are explained. To add one: its file, its name."""

from typing import Annotated

from models.fits.background import Background
from models.fits.base import Fit, Known
from models.producer import Registry

FITS: Registry[Fit] = Registry(Background)

FitConfig = Annotated[Fit, FITS]

__all__ = ["FITS", "Background", "Fit", "FitConfig", "Known"]
