"""The computation of maps: tensors in, tensors out."""

import sys

from models.lean_monai import LeanMonai

sys.meta_path.insert(0, LeanMonai())
