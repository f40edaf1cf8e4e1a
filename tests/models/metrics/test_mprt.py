"""Smooth and efficient MPRT: loops with the same noise, NumPy's histogram and SciPy's entropy."""

from typing import Literal

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from skimage.metrics import structural_similarity
from torch import Tensor

from models.draws import Draws
from models.engine import Engine
from models.explainers.base import MapExplainer
from models.explainers.control_edges import ControlEdges
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.saliency import Saliency
from models.metrics.efficient_mprt import EfficientMPRT
from models.metrics.randomisation import Randomisation, layers_with_parameters, randomised
from models.metrics.smooth_mprt import SmoothMPRT
from models.network import Network
from models.questions import Answer, Batch
from tests.models.metrics.cases import SHAPES, B, curved, images, names, values_of


def credit(network: Network, inputs: Tensor) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(inputs)[:, 1].sum(), inputs)
    return (inputs * gradient).detach()[:, 0]


def wholly_random(batch: Batch) -> Network:
    return randomised(batch, layers_with_parameters(batch.network), whole=False)


@pytest.mark.parametrize("dims", [2, 3])
def test_one_sample_without_noise_is_cascading_randomisation(dims: int) -> None:
    network, batch = curved(dims), images(dims)
    engine = Engine(network, [ControlEdges(), Saliency()], B, batch_size=2)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    for magnitude in (False, True):
        smooth = values_of(
            network, SmoothMPRT(samples=1, noise_level=0, magnitude=magnitude), batch, maps, engine=engine
        )
        plain = values_of(network, Randomisation(magnitude=magnitude), batch, maps, engine=engine)
        assert smooth.points == plain.points
        torch.testing.assert_close(smooth.value, plain.value)
        for name in plain.companions:
            torch.testing.assert_close(smooth.companions[name], plain.companions[name])
        for name in plain.curves:
            torch.testing.assert_close(smooth.curves[name], plain.curves[name])


@pytest.mark.parametrize("batch_size", [2, 7])
@pytest.mark.parametrize("dims", [2, 3])
def test_means_over_the_same_noise_are_compared(dims: int, batch_size: int) -> None:
    network, batch = curved(dims), images(dims)
    engine = Engine(network, [InputXGradient()], B, batch_size=batch_size)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    seen: list[Tensor] = []
    handle = network.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    score = values_of(network, SmoothMPRT(samples=4, noise_level=0.2), batch, maps, engine=engine)
    handle.remove()
    inputs = torch.cat(seen)[3:].view(-1, 4, 3, *batch.shape[1:])  # as it is, then layer by layer
    assert len(inputs) == 1 + 3 and all(torch.equal(inputs[0], other) for other in inputs[1:])
    flat = batch.flatten(1)
    noise = ((inputs[0] - batch) / (flat.amax(1) - flat.amin(1)).view(3, *[1] * (dims + 1))).std()
    assert 0.18 < noise < 0.22
    means = [credit(part, inputs[0].flatten(0, 1)).unflatten(0, (4, 3)).mean(0)
             for part in (network, wholly_random(engine.batch(batch, names(3))))]  # fmt: skip
    for row in range(3):
        pair = [((part[row] - part[row].min()) / (part[row].max() - part[row].min())).numpy() for part in means]
        alike = structural_similarity(*pair, data_range=1.0, use_sample_covariance=False)
        assert abs(float(score.value[row, 0, 0]) - alike) < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
def test_entropies_are_those_of_numpys_histograms_and_scipy(dims: int) -> None:
    network, batch = curved(dims), images(dims)
    engine = Engine(network, [InputXGradient(), ControlEdges()], B, batch_size=2)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    score = values_of(network, EfficientMPRT(), batch, maps, engine=engine)
    assert score.value[:, 0, 1].tolist() == [0.0] * 3
    for row in range(3):
        before, after = (
            entropy(np.histogram(credit(part, batch[[row]]).numpy(), bins=100)[0])
            for part in (network, wholly_random(engine.batch(batch, names(3))))
        )
        assert abs(float(score.companions["entropy"][row, 0, 0]) - before) < 1e-5
        assert abs(float(score.companions["random_entropy"][row, 0, 0]) - after) < 1e-5
        assert abs(float(score.value[row, 0, 0]) - (after - before) / before) < 1e-5
    maps[0] = 0.5
    assert values_of(network, EfficientMPRT(), batch, maps, engine=engine).value.isnan()[:, 0, 0].tolist() == [
        True,
        False,
        False,
    ]


class Learnt(MapExplainer):
    """Its map is a single place, and uniform noise once the weights are not those of the start."""

    name: Literal["learnt"] = "learnt"
    total: float

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        maps = torch.zeros_like(answer.inputs[:, 0])
        if float(network.module[0].weight.sum()) == self.total:
            maps.flatten(1)[:, 7] = 1.0
            return maps
        return Draws("learnt", ["image"]).uniform(maps.shape)[0].to(maps)


def test_complexity_rises_where_a_simple_map_becomes_noise() -> None:
    network, batch = curved(2), images(2)
    engine = Engine(network, [Learnt(total=float(network.module[0].weight.sum()))], B)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    score = values_of(network, EfficientMPRT(), batch, maps, engine=engine)
    places = np.prod(SHAPES[2])
    np.testing.assert_allclose(score.companions["entropy"], entropy([1, places - 1]), rtol=1e-5)
    assert (score.companions["random_entropy"] > 0.95 * np.log(100)).all()
    assert (score.value > 100).all()
