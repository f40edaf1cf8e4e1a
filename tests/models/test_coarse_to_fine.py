"""Occlusion to a tolerance: against all windows, loops, and scipy's interpolation; and what it cannot see."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor, nn

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import occlusion
from models.explainers.base import CHANNEL_MAPS
from models.explainers.occlusion import Occlusion
from models.explainers.window_grid import WindowGrid
from models.flags import MapFlag
from models.network import Network
from models.networks import AttentionGatedClassifier
from models.questions import plainly
from models.targets import Classes, OverThreshold, Predicted
from tasks.demo.phantom import GRID, phantom
from tasks.demo.shipped import WEIGHTS
from tasks.demo.training import FEATURES
from tests.models.networks import SHAPES, difference, images, make, names, wrap

B = Classes(classes=("b",))
EIGHTHS = 8


class Score(nn.Module):
    """The same score of all classes, a function of images ``(image, *space)``."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x[:, 0])[:, None].expand(-1, 4)


def explain(network: Network, explainer: Occlusion, batch: Tensor, **options: Any) -> tuple[Tensor, Tensor, float]:
    """Maps ``(image, *space)``, flags ``(image,)``, and the windows that were hidden, for each image in the mean."""
    engine = Engine(network, [explainer], B, **options)
    found = engine.explain(batch, names(batch))
    return found.maps[:, 0, 0], found.map_flags[:, 0, 0], engine.forward_passes / len(batch) - 1


@pytest.mark.parametrize(
    ("dims", "window", "stride"),
    [
        (2, 16, 8),
        (2, (16, 12), (7, 5)),
        (2, 64, 16),
        (2, 80, 8),
        (2, (4, 48), (1, 9)),
        (3, 16, 8),
        (3, (16, 12, 30), (8, 6, 8)),
    ],
)
def test_all_windows_give_the_exact_map_also_at_edges(dims: int, window: Any, stride: Any) -> None:
    network, batch = make("AttentionGated", dims), images(dims, count=1)
    exact, _, every = explain(network, Occlusion(window=window, stride=stride), batch)
    maps, flags, asked = explain(network, Occlusion(window=window, stride=stride, tolerance=1e-12), batch)
    assert difference(maps, exact) < 1e-9
    assert not flags.any()
    assert asked == every


@pytest.mark.parametrize(("dims", "count"), [(2, 3), (3, 1)])
def test_the_error_is_near_the_tolerance_for_fewer_windows(dims: int, count: int) -> None:
    module = AttentionGatedClassifier(dims, 1, 2, features=FEATURES["attention_gated", dims])
    module.load_state_dict(load_file(WEIGHTS / f"attention_gated_{dims}d.safetensors"))
    network = wrap(module, dims, classes=("a", "b"), shape=GRID[dims])
    drawn = torch.stack([torch.as_tensor(phantom(row, spatial_dims=dims, seed=7).pixels) for row in range(count)])
    batch = nn.functional.layer_norm(drawn[:, None].double(), (1, *GRID[dims]), eps=0)
    exact, _, every = explain(network, Occlusion(window=16, stride=8), batch)
    maps, flags, asked = explain(network, Occlusion(window=16, stride=8, tolerance=0.1), batch)
    assert asked < every and not flags.any()
    assert all(difference(ours, true) < 0.2 for ours, true in zip(maps, exact, strict=True))
    assert difference(maps, exact) > 1e-6


def test_drops_that_are_linear_along_each_axis_take_the_coarse_windows_and_a_round() -> None:
    ramps = [torch.arange(1.0, size + 1, dtype=torch.float64) for size in SHAPES[2]]
    network = wrap(Score(lambda x: x.sum((1, 2))))
    batch = torch.outer(*ramps)[None, None]
    exact, _, every = explain(network, Occlusion(window=8, stride=4), batch)
    maps, _, asked = explain(network, Occlusion(window=8, stride=4, tolerance=1e-6), batch)
    assert every == 15 * 11
    assert asked == 8 * 6 + -(-every // EIGHTHS)
    assert difference(maps, exact) < 1e-9


@pytest.mark.parametrize(("tolerance", "place"), [(10.0, (20, 20)), (1e-6, (63, 47))])
def test_the_coarse_windows_alone_tell_no_error(tolerance: float, place: tuple[int, int]) -> None:
    network, batch = wrap(Score(lambda x: x[:, place[0], place[1]])), images(2, count=1)
    _, _, asked = explain(network, Occlusion(window=(8, 12), stride=(3, 4), tolerance=tolerance), batch)
    assert asked == 11 * 6 + 20 * 10 / EIGHTHS


@pytest.mark.parametrize("place", [(0, 0), (7, 8), (13, 20), (63, 47)])
def test_a_spike_is_found_wherever_it_is(place: tuple[int, int]) -> None:
    network, batch = wrap(Score(lambda x: x[:, place[0], place[1]])), images(2, count=1)
    exact, _, every = explain(network, Occlusion(window=8, stride=4), batch)
    maps, _, asked = explain(network, Occlusion(window=8, stride=4, tolerance=0.05), batch)
    assert difference(maps, exact) < 0.05
    assert asked < every


def test_what_two_coarse_windows_hide_together_alone_can_be_missed() -> None:
    either = wrap(Score(lambda x: 10 * x[:, 10, 10] + torch.maximum(x[:, 38, 20], x[:, 41, 20])))
    batch = torch.ones(1, 1, *SHAPES[2], dtype=torch.float64)
    exact, _, _ = explain(either, Occlusion(window=8, stride=4), batch)
    found, _, _ = explain(either, Occlusion(window=8, stride=4, tolerance=0.05), batch)
    assert exact[0, 39, 20] > 0 == found[0, 39, 20]
    assert difference(found, exact) > 0.02


@pytest.mark.parametrize("tolerance", [1e-12, 0.1])
def test_targets_share_the_windows_of_an_image(tolerance: float) -> None:
    network, batch = make("AttentionGated", 2), images(2, count=3)
    exact = Engine(network, [Occlusion(window=16, stride=4)], Predicted(k=3)).explain(batch, names(batch)).maps
    engine = Engine(network, [Occlusion(window=16, stride=4, tolerance=tolerance)], Predicted(k=3))
    maps = engine.explain(batch, names(batch)).maps
    assert all(difference(*pair) < 2 * tolerance for pair in zip(maps.flatten(0, 1), exact.flatten(0, 1), strict=True))
    assert engine.forward_passes <= len(batch) * (1 + 13 * 9)


def test_batches_and_boxes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = make("AttentionGated", 2), images(2, count=4)
    explainer = Occlusion(window=16, stride=4, tolerance=0.1)
    found = [explain(network, explainer, batch, batch_size=size) for size in (16, 1, 7)]
    monkeypatch.setattr(occlusion, "AskBoxes", lambda *_: plainly)
    found.append(explain(network, explainer, batch))
    for maps, _, asked in found[1:]:
        assert difference(maps, found[0][0]) < 1e-9 and asked == found[0][2]


def test_each_channel_has_the_tolerance_of_its_own_map() -> None:
    network, batch = make("AttentionGated", 2, 3), images(2, 3, count=2)
    maps = []
    for tolerance in (None, 1e-12, 0.2):
        engine = Engine(network, [Occlusion(window=16, stride=4, tolerance=tolerance)], B, keeps_channels=True)
        maps.append(engine.explain(batch, names(batch)).outputs[CHANNEL_MAPS].flatten(0, 3))
    exact, all_asked, near = maps
    assert difference(all_asked, exact) < 1e-9
    assert 1e-6 < max(difference(*pair) for pair in zip(near, exact, strict=True)) < 0.4


def test_windows_that_two_explainers_hide_are_asked_once() -> None:
    network, batch = make("AttentionGated", 2), images(2, count=2)

    def passes(*tolerances: float) -> int:
        explainers = [
            Occlusion(window=16, stride=4, tolerance=tolerance, label=f"{tolerance}-{number}")
            for number, tolerance in enumerate(tolerances)
        ]
        engine = Engine(network, explainers, B)
        engine.explain(batch, names(batch))
        return engine.forward_passes

    assert passes(0.1, 0.1) == passes(0.1, 0.3) == passes(0.1)


def test_a_map_of_zeros_and_one_of_no_numbers_are_asked_about_in_full() -> None:
    batch = images(2, count=2)
    for of, flag in (
        (lambda x: 0 * x.sum((1, 2)), MapFlag.BLANK),
        (lambda x: x[:, 0, 0].where(x[:, 40, 40] != 0, torch.nan), MapFlag.NOT_FINITE),
    ):
        _, flags, asked = explain(wrap(Score(of)), Occlusion(window=8, stride=4, tolerance=0.5), batch)
        assert (flags == flag).all() and asked == 15 * 11


def test_an_image_without_the_target_is_asked_about_coarse_windows_alone() -> None:
    network, batch = make("AttentionGated", 2), images(2, count=2)
    engine = Engine(network, [Occlusion(window=16, stride=4, tolerance=1e-9)], OverThreshold(threshold=1.0))
    assert engine.explain(batch, names(batch)).maps.isnan().all()
    assert engine.forward_passes == 2 * (1 + 7 * 5)


@pytest.mark.parametrize(("window", "stride"), [(16, 9), ((16, 8), (8, 5)), (4, 4)])
def test_windows_that_overlap_too_little_are_refused(window: Any, stride: Any) -> None:
    network = make("AttentionGated", 2)
    Engine(network, [Occlusion(window=window, stride=stride)], B)
    with pytest.raises(ConfigurationError, match="a stride of at most half the window"):
        Engine(network, [Occlusion(window=window, stride=stride, tolerance=0.1)], B)


GRIDS = {
    "fits": WindowGrid([range(0, 20, 4), range(0, 28, 4)], (8, 8), (24, 32)),
    "over the edge": WindowGrid([range(0, 30, 5), range(0, 9, 3)], (11, 6), (33, 11)),
    "one start": WindowGrid([range(0, 5, 5), range(0, 10, 5)], (40, 10), (30, 12)),
    "3-D": WindowGrid([range(0, 12, 2), range(0, 8, 2), range(0, 10, 2)], (4, 5, 4), (14, 11, 13)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_maps_of_drops_are_means_over_windows(name: str) -> None:
    grid = GRIDS[name]
    drops = torch.randn(2, len(grid.corners), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    total, count = torch.zeros(2, *grid.shape, dtype=torch.float64), torch.zeros(grid.shape, dtype=torch.float64)
    for window, corner in enumerate(product(*grid.starts)):
        place = tuple(slice(start, start + side) for start, side in zip(corner, grid.sides, strict=True))
        total[(slice(None), *place)] += drops[:, window].view(-1, *[1] * len(grid.shape))
        count[place] += 1
    expected = total / count.clamp_min(1)
    assert difference(grid.map(drops), expected) < 1e-12
    assert torch.allclose(grid.norm(drops), expected.flatten(1).norm(dim=1))


@pytest.mark.parametrize("name", GRIDS)
def test_between_coarse_windows_drops_are_linear(name: str) -> None:
    grid = GRIDS[name]
    known = [[at for at in range(length) if at % 2 == 0 or at == length - 1] for length in grid.lengths]
    drops = torch.randn(1, len(grid.corners), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    corners = grid.corners[grid.coarse].tolist()
    assert corners == [[of[at] for of, at in zip(grid.starts, chosen, strict=True)] for chosen in product(*known)]
    found = grid.interpolated(drops.where(grid.coarse, 99.0), grid.coarse)
    axes = [[of[at] for at in own] for of, own in zip(grid.starts, known, strict=True)]
    expected = drops[0, grid.coarse].view(*map(len, known))
    several = [axis for axis, own in enumerate(axes) if len(own) > 1]
    linear = RegularGridInterpolator([axes[axis] for axis in several], expected.squeeze().numpy())
    assert torch.allclose(found[0], torch.as_tensor(linear(grid.corners[:, several].numpy())))
    assert torch.equal(grid.interpolated(drops, torch.ones_like(grid.coarse)), drops)


@pytest.mark.parametrize(("window", "stride"), [(4, 8), ((16, 4), (16, 5))])
def test_windows_with_places_between_them_are_refused(window: Any, stride: Any) -> None:
    network = make("AttentionGated", 2)
    with pytest.raises(ConfigurationError, match="hides the places between"):
        Engine(network, [Occlusion(window=window, stride=stride)], B)
    Engine(network, [Occlusion(window=100, stride=200)], B)  # one hides all
