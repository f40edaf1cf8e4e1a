"""Draws by a counter: the published vectors, the distributions, and what a draw depends on."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from models.draws import Draws, philox

NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_known_answers(counter: str, key: str, expected: str) -> None:
    """The vectors are those of Random123, ``kat_vectors``, philox4x32 with 10 rounds."""
    first, second, third, fourth = (torch.tensor([[int(word, 16)] * 3]) for word in counter.split())
    keys = torch.tensor([[int(word, 16) for word in key.split()]])
    found = philox(first, second, third, fourth, keys)
    assert [[f"{word & 0xFFFFFFFF:08x}" for word in part[0].tolist()] for part in found] == [
        [word] * 3 for word in expected.split()
    ]


KINDS = {
    "gaussian": lambda draws, image, sample: draws.gaussian((3, 7), image, sample),
    "uniform": lambda draws, image, sample: draws.uniform((3, 7), image, sample),
    "below": lambda draws, image, sample: draws.below(torch.tensor([5, 70, 900]), image, sample),
    "order": lambda draws, image, sample: draws.order(21, image, sample),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_name_purpose_and_number_alone(kind: str) -> None:
    draw = KINDS[kind]
    image, sample = torch.tensor([0, 2, 1, 0]), torch.tensor([5, 5, 0, 6])
    together = draw(Draws("noise", NAMES), image, sample)
    for row in range(len(image)):
        alone = draw(Draws("noise", [NAMES[image[row]]]), None, int(sample[row]))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=0)
    assert len({tuple(row.flatten().tolist()) for row in together}) == len(together)
    assert not torch.equal(draw(Draws("other", NAMES), image, sample), together)


def test_the_first_draws_of_a_shape_are_those_of_a_larger_one() -> None:
    draws = Draws("noise", NAMES)
    assert torch.equal(draws.gaussian((5,)), draws.gaussian((40,))[:, :5])


def test_gaussian_draws_are_normal() -> None:
    drawn = Draws("normal", NAMES).gaussian((200, 1000)).double()
    assert drawn.dtype == torch.float64 and drawn.shape == (3, 200, 1000)
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    flat = drawn.flatten(1)
    assert torch.corrcoef(torch.cat([flat, flat.roll(1, 1), flat.roll(4, 1)])).fill_diagonal_(0).abs().max() < 0.01


def test_every_gaussian_value_is_as_likely_and_their_moments_are_as_stated() -> None:
    from models.draws import _quantiles

    values = _quantiles(torch.device("cpu")).double()
    expected = stats.norm.ppf((np.arange(2**16) + 0.5) / 2**16)
    np.testing.assert_allclose(values, expected / expected.std(), rtol=1e-6)
    assert abs(values.mean()) < 1e-7 and abs(values.square().mean() - 1) < 1e-7
    assert values.pow(4).mean() == pytest.approx(2.9992, abs=5e-5)
    assert values.max() < 4.326
    step = torch.linspace(0, 1, 2**16 + 1, dtype=torch.float64)
    function = torch.special.ndtr(values)
    assert max(float((function - end).abs().max()) for end in (step[1:], step[:-1])) < 1.1e-5


def test_uniform_draws_are_uniform() -> None:
    drawn = Draws("uniform", NAMES).uniform((100_000,))
    assert drawn.min() >= 0 and drawn.max() < 1 and drawn.dtype == torch.float32
    assert stats.kstest(drawn.flatten().double().numpy(), "uniform").pvalue > 1e-3


def test_whole_numbers_are_below_their_bounds_and_as_likely() -> None:
    image = torch.zeros(30_000, dtype=torch.int64)
    drawn = Draws("whole", NAMES).below(torch.tensor([1, 2, 7]), image, torch.arange(30_000))
    assert (drawn[:, 0] == 0).all()
    for column, bound in ((1, 2), (2, 7)):
        counts = np.bincount(drawn[:, column].numpy(), minlength=bound)
        assert len(counts) == bound
        assert stats.chisquare(counts).pvalue > 1e-3


def test_orders_are_permutations_and_each_is_as_likely() -> None:
    image = torch.zeros(24_000, dtype=torch.int64)
    drawn = Draws("order", NAMES).order(4, image, torch.arange(24_000))
    assert torch.equal(drawn.sort(1).values, torch.arange(4).expand_as(drawn))
    _, counts = drawn.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_draws_the_same_bits(kind: str) -> None:
    def drawn(device: str) -> Tensor:
        image, sample = torch.tensor([0, 2, 1], device=device), torch.tensor([5, 5, 0], device=device)
        return KINDS[kind](Draws("noise", NAMES, device), image, sample).cpu()

    assert torch.equal(drawn("cuda"), drawn("cpu"))
