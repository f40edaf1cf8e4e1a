"""Robustness: Captum's sensitivity, scikit-image's structural similarity, and SciPy's rank correlation."""

from typing import Any

import pytest
import torch
from captum import attr
from captum.metrics import sensitivity_max
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor

from models.engine import Engine
from models.explainers.control_edges import ControlEdges
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.saliency import Saliency
from models.explainers.smoothgrad import SmoothGrad
from models.metrics.max_sensitivity import MaxSensitivity
from models.metrics.repeatability import Repeatability
from models.metrics.similarity import ssim
from models.targets import Predicted
from tests.models.metrics.cases import SHAPES, B, curved, images, linear, names, values_of


@pytest.mark.parametrize("batch_size", [2, 13])  # fewer than the images, and four copies of all three together
@pytest.mark.parametrize("dims", [2, 3])
def test_max_sensitivity_equals_captums_with_the_same_noise(dims: int, batch_size: int) -> None:
    network, batch = curved(dims), images(dims)
    engine = Engine(network, [InputXGradient()], B, batch_size=batch_size)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    seen: list[Tensor] = []
    handle = network.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    ours = values_of(network, MaxSensitivity(radius=0.1, samples=6), batch, maps, engine=engine).value[:, 0, 0]
    handle.remove()
    copies = torch.cat(seen)[3:].view(6, 3, *batch.shape[1:])
    apart = (copies - batch).flatten(2).abs().amax(-1) / (batch.flatten(1).amax(1) - batch.flatten(1).amin(1))
    assert apart.min() > 0.09 and apart.max() <= 0.1
    by_hand = attr.InputXGradient(network.module)

    def explained(inputs: Any) -> tuple[Tensor]:  # a tuple: of a tensor, Captum would compare each copy with all
        given = inputs[0] if isinstance(inputs, tuple) else inputs
        return (by_hand.attribute(given.requires_grad_(), target=1),)

    for row in range(3):
        theirs = sensitivity_max(
            explained,
            batch[[row]],
            perturb_func=lambda inputs, radius, row=row: (copies[:, row],),
            n_perturb_samples=6,
        )
        torch.testing.assert_close(ours[row].double(), theirs[0].double(), rtol=1e-5, atol=0)


def test_max_sensitivity_of_a_linear_network_is_that_of_its_formula() -> None:
    network, _ = linear(2)
    batch = images(2)
    engine = Engine(network, [Saliency(), ControlEdges()], B)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    value = values_of(network, MaxSensitivity(samples=3), batch, maps, engine=engine).value[:, 0]
    assert value[:, 0].abs().max() < 1e-12  # the gradient is the same everywhere
    assert (value[:, 1] > 0).all()


def test_the_target_and_the_noise_of_an_explainer_stay_those_of_the_image() -> None:
    network, batch = curved(2), images(2, count=6)
    engine = Engine(network, [Saliency(), SmoothGrad(samples=2)], Predicted(), batch_size=4)
    explanation = engine.explain(batch, names(6))
    module = network.module[-1]
    module.bias -= network(batch).mean(0)  # near a tie, so that noise changes what is predicted
    explanation = engine.explain(batch, names(6))
    metric = MaxSensitivity(radius=1e-12, samples=2)
    value = values_of(network, metric, batch, explanation.maps[:, 0], engine=engine).value[:, 0]
    assert value.max() < 1e-3
    noisy = batch + 0.4 * torch.randn(batch.shape, generator=torch.Generator().manual_seed(0))
    changed = engine.batch(noisy, names(6)).chosen.classes != explanation.target_class
    assert changed.any()
    fixed = engine.batch(noisy, names(6), chosen=engine.batch(batch, names(6)).chosen)
    assert torch.equal(fixed.chosen.classes, explanation.target_class)


@pytest.mark.parametrize("dims", [2, 3])
def test_ssim_equals_scikit_images_at_a_fixed_range_of_the_data(dims: int) -> None:
    generator = torch.Generator().manual_seed(2)
    one = torch.randn(4, *SHAPES[dims], generator=generator)
    other = one + torch.tensor([0.1, 0.5, 1.0, 3.0]).view(-1, *[1] * dims) * torch.randn(one.shape, generator=generator)
    ours = ssim(one, 100 * other)
    for own, a, b in zip(ours, one.numpy(), other.numpy(), strict=True):
        scaled = [(part - part.min()) / (part.max() - part.min()) for part in (a, b)]
        theirs = structural_similarity(*scaled, data_range=1.0, use_sample_covariance=False)
        assert abs(float(own) - theirs) < 1e-5
    assert ours[0] > ours[1] > ours[2] > ours[3]
    assert ssim(one, torch.ones_like(one)).isnan().all()
    torch.testing.assert_close(ssim(one, 3 * one - 1), torch.ones(4))


def test_repeatability_is_the_mean_similarity_to_the_other_networks_maps() -> None:
    maps = torch.randn(3, 2, *SHAPES[2], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    others = torch.stack([maps + 0.3, maps.roll(1, 0), 2 * maps])[:, :, None]
    network, batch = linear(2)[0], images(2)
    for name in ("repeatability", "reproducibility"):
        score = values_of(network, Repeatability(name=name), batch, maps, others=others)
        alike = ssim(maps.flatten(0, 1), maps.roll(1, 0).flatten(0, 1)).view(3, 2)
        torch.testing.assert_close(score.value[:, 0], ((2 + alike) / 3).float())
        for row in range(3):
            rho = spearmanr(maps[row, 0].flatten(), maps[row - 1, 0].flatten()).statistic
            assert abs(float(score.companions["spearman"][row, 0, 0]) - (2 + rho) / 3) < 1e-6
    others[1, 0] = 0.0
    assert values_of(network, Repeatability(), batch, maps, others=others).value.isnan().flatten(1).all(1).tolist() == [
        True,
        False,
        False,
    ]


def test_maps_of_other_networks_have_to_be_there_and_to_fit() -> None:
    maps: Any = torch.randn(3, *SHAPES[2])
    with pytest.raises(ValueError, match="repeatability: compares with maps of other networks, and there are none"):
        values_of(linear(2)[0], Repeatability(), images(2), maps)
    with pytest.raises(ValueError, match=r"maps of other networks are \(1, 3, 1, 1, 5, 5\)"):
        values_of(linear(2)[0], Repeatability(), images(2), maps, others=torch.zeros(1, 3, 1, 1, 5, 5))
