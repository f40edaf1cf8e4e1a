"""Agreement against SciPy's rank correlation, pair by pair."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from models.metrics.agreement import ExplainerAgreement, NetworkAgreement
from models.metrics.ranking import average_ranks, pearson, spearman
from tests.models.metrics.cases import SHAPES, images, linear, values_of


def rho(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(spearmanr(one.flatten(), other.flatten()).statistic)


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_and_correlation_equal_scipys(ties: bool) -> None:
    values = torch.randn(2, 5, 60, generator=torch.Generator().manual_seed(0))
    values = (2 * values).round() if ties else values
    np.testing.assert_allclose(average_ranks(values), rankdata(values, axis=-1))
    for own, one, other in zip(spearman(*values), *values, strict=True):
        assert abs(float(own) - rho(one, other)) < 1e-12


def test_what_is_constant_or_not_finite_has_no_correlation() -> None:
    varied = torch.randn(3, 50)
    odd = torch.randn(3, 50)
    odd[0] = 0.1
    odd[1, 3] = torch.nan
    assert spearman(varied, odd).isnan().tolist() == [True, True, False]
    rounding = 0.1 + 1e-17 * torch.randn(50, dtype=torch.float64)
    assert pearson(varied[0], rounding).isnan()
    assert pearson(varied[0].double(), (varied[0] < 0).double() * 1e-3 + 7).isfinite()


@pytest.mark.parametrize("dims", [2, 3])
def test_an_explainer_agrees_with_the_others_by_the_mean_correlation(dims: int) -> None:
    maps = torch.randn(3, 4, *SHAPES[dims], generator=torch.Generator().manual_seed(5))
    maps[:, 1] = maps[:, 0] ** 3
    maps[2, 3] = 0.0
    value = values_of(linear(dims)[0], ExplainerAgreement(), images(dims), maps).value[:, 0]
    for row in range(2):
        for own in range(4):
            others = [rho(maps[row, own], maps[row, other]) for other in range(4) if other != own]
            assert abs(float(value[row, own]) - np.mean(others)) < 1e-6
    assert value[2, 3].isnan()
    assert abs(float(value[2, 0]) - (1 + rho(maps[2, 0], maps[2, 2])) / 2) < 1e-6


def test_networks_agree_by_the_mean_over_all_pairs() -> None:
    stacks = torch.randn(4, 3, 1, 2, *SHAPES[2], generator=torch.Generator().manual_seed(6)) + 1.5 * images(2)[:, None]
    score = values_of(linear(2)[0], NetworkAgreement(), images(2), stacks[0, :, 0], others=stacks[1:])
    for row in range(3):
        for own in range(2):
            pairs = [rho(a[row, 0, own], b[row, 0, own]) for a, b in combinations(stacks, 2)]
            assert len(pairs) == 6
            assert abs(float(score.value[row, 0, own]) - np.mean(pairs)) < 1e-6
