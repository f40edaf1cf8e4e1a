"""Sparsity and entropy of maps whose values are known, and by other formulas."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from models.metrics.entropy import Entropy
from models.metrics.gini import Gini
from tests.models.metrics.cases import SHAPES, images, linear, values_of


@pytest.mark.parametrize("dims", [2, 3])
def test_from_a_single_place_to_a_constant_and_a_blank_map(dims: int) -> None:
    count = torch.Size(SHAPES[dims]).numel()
    maps = torch.zeros(3, *SHAPES[dims])
    maps[0].view(-1)[5] = -2.0
    maps[1] = 0.7
    gini, spread = (
        values_of(linear(dims)[0], metric, images(dims), maps).value[:, 0, 0] for metric in (Gini(), Entropy())
    )
    np.testing.assert_allclose(gini, [1 - 1 / count, 0.0, np.nan], atol=1e-6)
    np.testing.assert_allclose(spread, [0.0, np.log(count), np.nan], atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_against_the_mean_difference_and_scipy(dims: int) -> None:
    maps = torch.randn(3, *SHAPES[dims], generator=torch.Generator().manual_seed(0)) ** 3
    gini, spread = (
        values_of(linear(dims)[0], metric, images(dims), maps).value[:, 0, 0] for metric in (Gini(), Entropy())
    )
    for row, own in enumerate(maps.abs().flatten(1).double().numpy()):
        differences = np.abs(own[:, None] - own).mean() / (2 * own.mean())
        assert abs(float(gini[row]) - differences) < 1e-6
        assert abs(float(spread[row]) - entropy(own)) < 1e-5
