"""Uncertainty: how a prediction and its maps change when the network, or the image, is a little different.

Each kind makes members: networks that might as well have been trained, or views in which the image might as well have
been taken. All members are asked about the same targets as the network itself, and the noise of explainers depends on
the image alone, so that all variation is due to the members.
"""

from models.uncertainty.base import Uncertainty
from models.uncertainty.folds import FoldsApart
from models.uncertainty.mc_dropout import MCDropout
from models.uncertainty.members import Member
from models.uncertainty.spread import Spread, ask_members
from models.uncertainty.test_time_augmentation import TestTimeAugmentation

__all__ = ["FoldsApart", "MCDropout", "Member", "Spread", "TestTimeAugmentation", "Uncertainty", "ask_members"]
