"""MONAI is imported without what its transforms and networks can do without, which stays to be had."""

import subprocess
import sys

import pytest

pytest.importorskip("transformers")


@pytest.mark.parametrize("before", ["", "import transformers", "import pandas"])
def test_monai_brings_no_library_that_it_needs_not_and_hides_none(before: str) -> None:
    code = f"""
{before}
import sys
libraries = ("transformers", "pandas", "matplotlib", "monai.losses")
there = [library in sys.modules for library in libraries]
import models
import monai.networks.nets
import monai.transforms
assert monai.networks.nets.UNet and monai.transforms.NormalizeIntensity
assert [library in sys.modules for library in libraries] == there
from transformers import AutoConfig
import matplotlib.pyplot, pandas
from monai.losses import DiceLoss
from monai.visualize import GradCAM
"""
    subprocess.run([sys.executable, "-c", code], check=True)
