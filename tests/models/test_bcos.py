"""B-cos networks: the layers are those of the paper, and the map is what each pixel adds to the logit."""

import json

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from models.engine import Engine
from models.explainers.bcos import Bcos
from models.explainers.saliency import Saliency
from models.networks import BcosClassifier
from models.networks.bcos import BcosConv, Uncentred
from models.targets import Classes, Difference
from models.training import predict
from tasks.demo.shipped import WEIGHTS
from tasks.demo.training import draw
from tests.models.networks import CLASSES, SHAPES, difference, images, make, names, wrap

TARGETS = (Classes(classes=("b",)), Difference(of="d", against="a"))


def module_of(dims: int, channels: int = 1) -> BcosClassifier:
    """A network whose norms have seen other images."""
    torch.manual_seed(0)
    module = BcosClassifier(dims, channels, 4, features=(4, 6, 8)).double().train()
    module(3 * images(dims, channels, 2))
    return module.eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_convolution_is_the_cosine_times_the_projection_of_each_patch(dims: int) -> None:
    torch.manual_seed(0)
    shape = (5, 6, 4)[:dims]
    layer, inputs = BcosConv(dims, 3, 4).double(), torch.randn(2, 3, *shape, dtype=torch.float64)
    found, padded = layer(inputs), functional.pad(inputs, [1] * 2 * dims)
    for index in torch.cartesian_prod(*map(torch.arange, shape)):
        patch = padded[(..., *(slice(int(at), int(at) + 3) for at in index))].flatten(1)
        for unit, weight in enumerate(layer.linear.weight.flatten(1)):
            cosine = functional.cosine_similarity(patch, weight[None])
            expected = patch.shape[1] ** 0.5 * cosine.abs() * (patch @ weight) / weight.norm()
            assert torch.allclose(found[(slice(None), unit, *index)], expected, rtol=1e-5)


def test_a_norm_divides_by_the_deviation_that_it_saw() -> None:
    torch.manual_seed(0)
    norm, inputs = Uncentred(3, momentum=1.0), 5 + torch.randn(4, 3, 6, 5)
    trained = norm.train()(inputs)
    expected = inputs / inputs.std((0, 2, 3), correction=0, keepdim=True)
    assert torch.allclose(trained, expected, rtol=1e-5)
    assert torch.allclose(norm.eval()(2 * inputs), 2 * expected, rtol=1e-5)


def by_hand(module: BcosClassifier, batch: Tensor, of: int) -> Tensor:
    """Contributions by formula: the layers as linear maps whose scales and maxima are noted beforehand."""
    dims = batch.ndim - 2
    pixels = torch.cat([batch.clamp_min(0), -batch.clamp_max(0)], 1).requires_grad_()

    def transform(layer: BcosConv, inputs: Tensor) -> Tensor:
        convolve = {2: functional.conv2d, 3: functional.conv3d}[dims]
        unit, how = functional.normalize(layer.linear.weight.flatten(1)), (layer.linear.stride, layer.linear.padding)
        along = convolve(inputs, unit.view_as(layer.linear.weight), None, *how)
        length = convolve(inputs.square(), torch.ones_like(layer.linear.weight[:1]), None, *how).add(1e-6).sqrt()
        return along * (along.abs() / length * unit.shape[1] ** 0.5).detach()

    found, pool = pixels, {2: functional.max_pool2d, 3: functional.max_pool3d}[dims]
    for number, block in enumerate(module.blocks):
        for part in block:
            found = transform(part, found) if isinstance(part, BcosConv) else part(found)
        found = pool(found, 2) if number + 1 < len(module.blocks) else found
    logit = found.flatten(2).max(2).values @ module.classifier.weight[of].detach()
    (gradient,) = torch.autograd.grad(logit.sum(), pixels)
    return sum((gradient * pixels).detach().chunk(2, dim=1)).sum(1)  # type: ignore[union-attr]


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 1)])
def test_the_map_is_what_pixels_add_by_the_weights_of_the_image(dims: int, channels: int) -> None:
    module, batch = module_of(dims, channels), images(dims, channels, 3)
    expected = by_hand(module, batch, of=1)
    found = Engine(wrap(module, dims, channels), [Bcos()], TARGETS[0]).explain(batch, names(batch)).maps
    assert difference(found[:, 0, 0], expected) < 1e-9


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_map_sums_to_the_logit(dims: int, target: Classes | Difference) -> None:
    batch = images(dims, count=3)
    engine = Engine(wrap(module_of(dims), dims), [Bcos()], target)
    found = engine.explain(batch, names(batch))
    assert torch.allclose(found.maps[:, 0, 0].flatten(1).sum(1), engine.batch(batch, names(batch)).scores[0])
    assert found.maps.std() > 0


def test_the_network_is_prepared_without_a_change_of_its_answers() -> None:
    module, batch = module_of(2), images(2)
    expected = module(batch)
    network = wrap(module)
    assert network.prepare(batch).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(network(network.prepare(batch)), expected, rtol=1e-9)
    assert not network._folded


def test_explanation_mode_changes_no_value_and_ends() -> None:
    module, batch = module_of(2), images(2, count=2)
    plain, network = module(batch), wrap(module)
    gradients = Engine(network, [Saliency()], TARGETS[0]).explain(batch, names(batch)).maps
    with module.explanation_mode():
        assert torch.allclose(module(batch), plain, rtol=1e-12)
    with pytest.raises(KeyError), module.explanation_mode():
        raise KeyError
    Engine(network, [Bcos()], TARGETS[0]).explain(batch, names(batch))
    assert torch.equal(Engine(network, [Saliency()], TARGETS[0]).explain(batch, names(batch)).maps, gradients)


@pytest.mark.parametrize("module", [make("ResNet18", 2).module, nn.Sequential(module_of(2))], ids=["other", "within"])
def test_other_networks_are_refused(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"^bcos: .* is no B-cos network .* use integrated_gradients instead"):
        Engine(wrap(module, classes=CLASSES, shape=SHAPES[2]), [Bcos()], TARGETS[0])


def test_the_shipped_weights_are_small_and_reach_their_recorded_auc() -> None:
    path = WEIGHTS / "bcos_2d.safetensors"
    recipe = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 1_000_000
    network = BcosClassifier(2, 1, 2, features=recipe["features"])
    network.load_state_dict(load_file(path))
    drawn, labels = draw(120, 2, seed=991)
    auc = roc_auc_score(labels.numpy(), predict(network, drawn)[:, 1].numpy())
    assert recipe["held_out_auc"] > 0.9 and abs(auc - recipe["held_out_auc"]) < 0.06
