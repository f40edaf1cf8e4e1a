"""Orders are those of a stable sort by numpy, for each kind of number and on both sides of the length that matters."""

import numpy as np
import pytest
import torch

from models.sorting import stable_order


@pytest.mark.parametrize("count", [7, 40_000])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int32, torch.int64])
@pytest.mark.parametrize("descending", [False, True])
def test_order_is_numpys_and_equal_values_stay_as_they_stand(count: int, kind: torch.dtype, descending: bool) -> None:
    values = torch.randn(2, 3, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = (values * 50).round().div(4).to(kind)
    values[..., ::5] = 0
    if kind.is_floating_point:
        values[..., 0], values[..., 1], values[..., 2] = -0.0, torch.inf, -torch.inf
    expected = np.argsort((-values if descending else values).numpy(), axis=-1, kind="stable")
    assert np.array_equal(stable_order(values, descending=descending).numpy(), expected)


def test_rows_may_be_none_and_one_row_may_stand_alone() -> None:
    assert stable_order(torch.zeros(0, 40_000)).shape == (0, 40_000)
    assert torch.equal(stable_order(torch.arange(40_000.0).flip(0)), torch.arange(40_000).flip(0))
