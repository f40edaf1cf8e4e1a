"""The random-logit test: which class is drawn, and how alike the maps are by scikit-image and SciPy."""

import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.control_edges import ControlEdges
from models.explainers.input_x_gradient import InputXGradient
from models.metrics import evaluate
from models.metrics.random_logit import RandomLogit
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Difference, Predicted
from tests.models.metrics.cases import SHAPES, images, names
from tests.models.networks import wrap

CLASSES = ("a", "b", "c", "d", "e")


def network_of(classes: tuple[str, ...] = CLASSES) -> Network:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Flatten(), nn.Linear(320, 12), nn.Tanh(), nn.Linear(12, len(classes)))
    return wrap(module, classes=classes, shape=SHAPES[2])


def by_hand(one: Tensor, other: Tensor) -> tuple[float, float]:
    pair = [((part - part.min()) / (part.max() - part.min())).numpy() for part in (one, other)]
    alike = structural_similarity(*pair, data_range=1.0, use_sample_covariance=False)
    return float(alike), float(spearmanr(one.flatten(), other.flatten()).statistic)


def test_the_map_is_compared_with_that_of_another_class_drawn_by_name() -> None:
    network, batch = network_of(), images(2, count=12)
    engine = Engine(network, [InputXGradient(), ControlEdges()], Predicted(), batch_size=5)
    explained = engine.explain(batch, names(12))
    score = evaluate(engine, [RandomLogit()], batch, names(12), explained.maps)[0]
    torch.testing.assert_close(score.value[:, 0, 1], torch.ones(12))  # edges are those of every class
    drawn = []
    for row in range(12):
        image = batch[[row]].requires_grad_()
        outputs = network(image)[0]
        maps = [(image * torch.autograd.grad(one, image, retain_graph=True)[0])[0, 0].detach() for one in outputs]
        own = int(explained.target_class[row, 0])
        values = torch.tensor([by_hand(maps[own], other) for other in maps])
        mine = torch.tensor([float(score.value[row, 0, 0]), float(score.companions["spearman"][row, 0, 0])])
        (match,) = ((values - mine).abs().amax(1) < 1e-5).nonzero()[:, 0].tolist()
        assert match != own
        drawn.append(match)
    assert len(set(drawn)) > 2
    alone = evaluate(engine, [RandomLogit()], batch[[3]], names(12)[3:4], explained.maps[[3]])[0]
    torch.testing.assert_close(alone.value, score.value[[3]])


def test_the_class_that_a_difference_is_held_against_is_not_drawn() -> None:
    for classes, defined in ((("a", "b", "c"), True), (("a", "b"), False)):
        network, batch = network_of(classes), images(2)
        engine = Engine(network, [InputXGradient(), ControlEdges()], Difference(of="a", against="b"))
        maps = engine.explain(batch, names(3)).maps
        value = evaluate(engine, [RandomLogit()], batch, names(3), maps)[0].value
        assert torch.equal(value.isfinite(), torch.full((3, 1, 2), defined))


def test_one_output_has_no_other() -> None:
    config = NetworkConfig(classes=("a",), input_shape=SHAPES[2], activation="sigmoid")
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(320, 1)), config)
    with pytest.raises(ValueError, match="random_logit: the model has one output"):
        RandomLogit().check(network)
