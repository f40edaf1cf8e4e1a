"""IROF: a loop that hides segments one by one, and a network that looks at a single place."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.control_random import ControlRandom
from models.explainers.fill import filled
from models.explainers.supervoxels import cut
from models.metrics import evaluate
from models.metrics.irof import IROF
from tests.models.metrics.cases import SHAPES, B, curved, images, linear, names, network_of, values_of


@pytest.mark.parametrize("fill", ["mean", 0.0])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_area_over_the_curve_by_hiding_segments_one_by_one(dims: int, fill: Any) -> None:
    network, batch = curved(dims), images(dims)
    batch[1] = batch[1].cumsum(-1)  # so that images have different numbers of segments
    maps = torch.randn(3, *SHAPES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    logits = network(batch)
    network.module[-1].bias[1] += (logits[:, 0] - logits[:, 1]).amax() + 0.1  # so that it decides for b
    score = values_of(network, IROF(segments=12, compactness=0.1, fill=fill), batch, maps).value[:, 0, 0]
    pieces = cut(batch, 12, 0.1)
    assert len(set(pieces.counts)) == 3
    hidden = filled(batch, fill)
    for row in range(3):
        labels, count = pieces.labels[row], pieces.counts[row]
        strength = [float(maps[row][labels == piece].mean()) for piece in range(count)]
        image, curve = batch[row].clone(), []
        for piece in [None, *np.argsort(strength)[::-1]]:
            if piece is not None:
                image[:, labels == piece] = hidden[row][:, labels == piece]
            curve.append(float(network(image[None]).softmax(1)[0, 1]))
        shares = np.array(curve) / curve[0]
        assert np.ptp(shares) > 0.01
        assert abs(float(score[row]) - (1 - np.trapezoid(shares, dx=1 / count))) < 1e-5


class Corner(nn.Module):
    """The probability of class b is high where the first place is bright."""

    def forward(self, x: Tensor) -> Tensor:
        strength = 3 * x.flatten(1)[:, 0]
        return torch.stack([-strength, strength], 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_map_of_the_place_that_counts_comes_first_and_one_that_hides_it_last_is_worst(dims: int) -> None:
    network, batch = network_of(Corner(), dims, "softmax"), images(dims).abs()
    batch[:, 0].flatten(1)[:, 0] = 1.0
    right = torch.zeros(3, *SHAPES[dims], dtype=torch.float64)
    right.flatten(1)[:, 0] = 1.0
    value = values_of(network, IROF(segments=8, fill=0.0), batch, torch.stack([right, -right], 1)).value[:, 0]
    count = torch.tensor(cut(batch, 8, 0.3).counts)
    whole, hidden = torch.sigmoid(torch.tensor([6.0, 0.0]))
    first = (1 - hidden / whole) * (1 - 1 / (2 * count))  # all but the half of the first step
    last = (1 - hidden / whole) / (2 * count)
    torch.testing.assert_close(value, torch.stack([first, last], 1))


def test_segments_are_cut_once_and_their_number_is_that_of_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = curved(2), images(2)
    most = max(cut(batch, 9, 0.3).counts)
    calls = []
    monkeypatch.setattr("models.metrics.irof.cut", lambda *asked: calls.append(asked) or cut(*asked))
    engine = Engine(network, [ControlRandom()] * 3, B)
    maps = torch.randn(3, 1, 3, *SHAPES[2], generator=torch.Generator().manual_seed(5))
    evaluate(engine, [IROF(segments=9)], batch, names(3), maps)
    assert len(calls) == 1
    assert engine.forward_passes == 3 * (1 + 1 + 3 * (most - 1))


def test_segments_of_equal_strength_are_hidden_in_an_order_drawn_by_the_images_name() -> None:
    network, batch = curved(2), images(2, count=1).expand(2, -1, -1, -1)
    seen: list[Tensor] = []
    handle = network.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    values_of(network, IROF(segments=20, fill=0.0), batch, torch.full((2, *SHAPES[2]), 0.1))
    handle.remove()
    wholly, one, two = (torch.cat(seen)[2:] == 0).flatten(1).split([2, 18, 18])
    labels = cut(batch[:1], 20, 0.3).labels.flatten()
    assert wholly.all() and labels[one[0]].unique().numel() == labels[two[0]].unique().numel() == 1
    assert not torch.equal(one, two)


def test_of_a_class_that_is_not_predicted_nothing_is_said() -> None:
    network, batch = curved(2), images(2)
    network.module[-1].bias -= network(batch).mean(0)
    is_b = network(batch).argmax(1) == 1
    assert is_b.any() and not is_b.all()
    assert torch.equal(values_of(network, IROF(), batch, batch[:, 0]).value[:, 0, 0].isfinite(), is_b)


def test_a_regression_has_no_decision_to_lose() -> None:
    with pytest.raises(ValueError, match="irof: the model is a regression"):
        values_of(linear(2)[0], IROF(), images(2), images(2)[:, 0])
