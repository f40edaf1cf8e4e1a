"""bf16 held against fp32, through the engine; on a processor, whose bf16 is slow or not, but the same arithmetic."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from models.engine import Engine, Explanation
from models.explainers.gradcam import GradCAM
from models.explainers.guided_backprop import GuidedBackprop
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.saliency import Saliency
from models.loading import build
from models.network import Network
from models.network_config import NetworkConfig
from models.precision import Deviation, deviation
from models.targets import Predicted
from tests.models.test_network import config, save, state

NAMES = ("saliency", "input_x_gradient", "gradcam", "guided_backprop")


def explained(precision: str, images: torch.Tensor) -> tuple[Network, Explanation]:
    network = build(config(), save(state()), "cpu", precision)  # type: ignore[arg-type]
    explainers = [Saliency(), InputXGradient(), GradCAM(), GuidedBackprop()]
    return network, Engine(network, explainers, Predicted(), 4).explain(images, [str(n) for n in range(len(images))])


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    shape: NetworkConfig = config()
    return torch.randn(6, shape.channels, *shape.input_shape, generator=torch.Generator().manual_seed(1))


def test_bf16_answers_in_float32_differs_a_little_and_agrees(images: torch.Tensor) -> None:
    _, exact = explained("fp32", images)
    network, rounded = explained("bf16", images)
    assert rounded.maps.dtype == rounded.logits.dtype == torch.float32
    assert not torch.equal(rounded.logits, exact.logits)
    found = deviation(exact, rounded, NAMES)
    assert set(found) == {"logits", *NAMES}
    assert all(one.suffices for one in found.values()), found
    assert found["input_x_gradient"].relative_l2 > 1e-3
    with network.exact():
        assert torch.equal(network(network.prepare(images)), exact.logits)
    assert network.precision == "bf16"


def test_another_backward_rule_stays_in_fp32(images: torch.Tensor) -> None:
    """Its maps are those of fp32 to the last bits, where the plain gradient's are not."""
    _, exact = explained("fp32", images)
    _, rounded = explained("bf16", images)
    found = deviation(exact, rounded, NAMES)
    assert found["guided_backprop"].relative_l2 < 1e-5 < found["saliency"].relative_l2


def test_medians_equal_scipys(images: torch.Tensor) -> None:
    _, exact = explained("fp32", images)
    _, rounded = explained("bf16", images)
    one, other = (explanation.maps[:, 0, 1].flatten(1).double().numpy() for explanation in (exact, rounded))
    found = deviation(exact, rounded, NAMES)["input_x_gradient"]
    ranks = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert found.rank_correlation == pytest.approx(np.median(ranks), abs=1e-12)
    relative = np.linalg.norm(other - one, axis=1) / np.linalg.norm(one, axis=1)
    assert found.relative_l2 == pytest.approx(np.median(relative), rel=1e-9)


def test_maps_of_another_image_do_not_suffice_and_what_is_blank_says_nothing(images: torch.Tensor) -> None:
    _, exact = explained("fp32", images)
    _, other = explained("fp32", images.flip(0) + 1)
    assert not deviation(exact, other, NAMES)["saliency"].suffices
    exact.maps[:, :, 2] = 0
    assert "gradcam" not in deviation(exact, other, NAMES)
    other.maps[:, :, 0] = torch.nan
    lost = deviation(exact, other, NAMES)["saliency"]
    assert (lost.rank_correlation, lost.relative_l2) == (-1, np.inf) and not lost.suffices
    assert not Deviation(rank_correlation=0.89, relative_l2=0.1).suffices
    assert not Deviation(rank_correlation=0.99, relative_l2=0.21).suffices
