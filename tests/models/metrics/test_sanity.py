"""Randomisation of weights and labels: what has to stay, what has to go, and in which order."""

import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.control_edges import ControlEdges
from models.explainers.gradcam import GradCAM
from models.explainers.saliency import Saliency
from models.metrics.label_randomisation import LabelRandomisation
from models.metrics.randomisation import Randomisation, layers_with_parameters
from models.network import Network
from models.questions import Batch
from tests.models.metrics.cases import SHAPES, B, curved, images, linear, names, network_of, values_of

LAYERS = ("6", "2", "0")


def asked(network: Network) -> Batch:
    return Engine(network, [Saliency()], B).batch(images(2), names(3))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["cascading_randomisation", "independent_randomisation"])
def test_edges_stay_and_gradients_go_and_the_network_is_what_it_was(dims: int, name: str) -> None:
    network, batch = curved(dims), images(dims)
    state = {key: value.clone() for key, value in network.module.state_dict().items()}
    engine = Engine(network, [ControlEdges(), Saliency()], B, batch_size=2)
    explanation = engine.explain(batch, names(3))
    score = values_of(network, Randomisation(name=name), batch, explanation.maps[:, 0], engine=engine)
    assert score.points == LAYERS
    for curve in (score.curves["ssim"], score.curves["spearman"]):
        assert curve.shape == (3, 1, 2, 3)
        torch.testing.assert_close(curve[:, :, 0], torch.ones(3, 1, 3))
        assert curve[:, :, 1].mean() < 0.8
    end = score.curves["ssim"][..., -1] if name.startswith("casc") else score.curves["ssim"].mean(-1)
    torch.testing.assert_close(score.value, end)
    assert score.companions["random_spearman"].abs().max() < 0.2
    assert score.companions["random_ssim"].max() < 0.5
    assert all(torch.equal(state[key], value) for key, value in network.module.state_dict().items())
    torch.testing.assert_close(engine.explain(batch, names(3)).maps, explanation.maps, rtol=0, atol=0)


def test_a_cascade_goes_on_where_it_was_and_layers_alone_do_not() -> None:
    network = curved(2)
    weights = {name: network.module.get_submodule(name).weight for name in LAYERS}
    for name, counts in (("cascading_randomisation", [1, 2, 3]), ("independent_randomisation", [1, 1, 1])):
        changed = []
        for random in Randomisation(name=name)._random(asked(network), LAYERS):
            changed.append(
                [not torch.equal(random.module.get_submodule(layer).weight, weights[layer]) for layer in LAYERS]
            )
        assert [sum(layers) for layers in changed] == counts
        assert all(layers[place] for place, layers in enumerate(changed))


def test_random_networks_are_made_once_and_share_what_they_can() -> None:
    batch = asked(curved(2))
    one, two, three = Randomisation()._random(batch, LAYERS)
    assert next(Randomisation()._random(batch, LAYERS)) is one
    made = (one, two, three)
    first, second, third = ([network.module.get_submodule(name).weight for network in made] for name in LAYERS)
    assert first[0] is first[1] is first[2]
    assert second[1] is second[2] and second[0] is batch.network.module.get_submodule(LAYERS[1]).weight
    assert third[0] is third[1] is batch.network.module.get_submodule(LAYERS[2]).weight


class PartlyScript(nn.Module):
    """A network with a part in TorchScript, which copies itself as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.part = torch.jit.script(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))
        self.head = nn.Linear(4, 2)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(x).flatten(2).mean(-1) * self.scale)


def test_parts_in_torchscript_are_made_random_as_others() -> None:
    network = network_of(PartlyScript().double(), 2)
    *_, random = Randomisation()._random(asked(network), layers_with_parameters(network))
    for before, after in zip(network.module.parameters(), random.module.parameters(), strict=True):
        assert not torch.equal(before, after)
    assert not torch.allclose(network(images(2)), random(images(2)))
    assert random.module.scale is network.module.scale


def test_random_weights_are_of_the_size_they_were_and_the_same_in_every_run() -> None:
    network, _ = linear(2)
    (one,), (two,) = (list(Randomisation()._random(asked(network), ("1",))) for _ in range(2))
    ours, theirs = (part.module[1].weight for part in (one, network))
    assert torch.equal(ours, two.module[1].weight)
    assert abs(float(ours.square().mean() / theirs.square().mean()) - 1) < 0.2
    assert abs(float(torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1])) < 0.2


def test_what_does_not_look_at_the_head_stays_until_the_layers_below_are_random() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(320, 2), nn.Linear(320, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x.flatten(1)) + 0 * self.unused(x.flatten(1))

    network, batch = network_of(Split(), 2), images(2)
    engine = Engine(network, [Saliency()], B)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    score = values_of(network, Randomisation(), batch, maps, engine=engine)
    assert score.points == ("unused", "used")
    torch.testing.assert_close(score.curves["ssim"][:, 0, 0, 0], torch.ones(3))
    assert score.curves["spearman"][:, 0, 0, 1].abs().max() < 0.3


def test_by_magnitude_a_flipped_sign_is_no_change() -> None:
    network, batch = linear(2)[0], images(2)
    engine = Engine(network, [Saliency()], B)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    metric = Randomisation(magnitude=True)
    same, flipped = (values_of(network, metric, batch, part, engine=engine) for part in (maps, -maps))
    assert torch.equal(same.value, flipped.value)
    assert not torch.equal(
        values_of(network, Randomisation(), batch, maps, engine=engine).value,
        values_of(network, Randomisation(), batch, -maps, engine=engine).value,
    )


def test_layers_are_named_with_all_they_hold_or_refused() -> None:
    network, batch = curved(2), images(2)
    engine = Engine(network, [GradCAM()], B)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    assert values_of(network, Randomisation(layers=("6", "0")), batch, maps, engine=engine).points == ("6", "0")
    with pytest.raises(ValueError, match=r"there is no layer '66'; the nearest names are .*'6'"):
        values_of(network, Randomisation(layers=("66",)), batch, maps, engine=engine)
    with pytest.raises(ValueError, match="layer '1' has no parameters"):
        values_of(network, Randomisation(layers=("1",)), batch, maps, engine=engine)
    nested = network_of(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(320, 5), nn.Linear(5, 2))), 2)
    (random,) = Randomisation(layers=("1",))._random(asked(nested), ("1",))
    for part in (0, 1):
        assert not torch.equal(random.module[1][part].weight, nested.module[1][part].weight)
    assert SHAPES[2][0] * SHAPES[2][1] == 320


def test_label_randomisation_is_the_mean_similarity_beside_that_of_noise() -> None:
    network, batch = linear(2)[0], images(2)
    maps = torch.randn(3, 2, *SHAPES[2], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    others = torch.stack([maps, maps.roll(1, 0)])[:, :, None]
    score = values_of(network, LabelRandomisation(), batch, maps, others=others)
    for row in range(3):
        pair = [(part[row, 0] - part[row, 0].min()).numpy() / float(part[row, 0].max() - part[row, 0].min())
                for part in (maps, maps.roll(1, 0))]  # fmt: skip
        alike = structural_similarity(*pair, data_range=1.0, use_sample_covariance=False)
        assert abs(float(score.value[row, 0, 0]) - (1 + alike) / 2) < 1e-5
        rho = spearmanr(maps[row, 0].flatten(), maps[row - 1, 0].flatten()).statistic
        assert abs(float(score.companions["spearman"][row, 0, 0]) - (1 + rho) / 2) < 1e-6
    assert score.companions["random_spearman"].abs().max() < 0.2
    weights = values_of(network, Randomisation(), batch, maps[:, 0], engine=Engine(network, [Saliency()], B))
    for name in ("random_ssim", "random_spearman"):  # the level is one, whatever is made random
        assert torch.equal(score.companions[name][:, :, [0]], weights.companions[name])
