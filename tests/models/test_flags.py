"""Bad images and maps are flagged, each for itself."""

import torch
from torch import nn

from models.engine import Engine
from models.explainers.eigencam import EigenCAM
from models.explainers.gradcam import GradCAM
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.saliency import Saliency
from models.flags import ImageFlag, MapFlag
from models.targets import Classes, Predicted
from tests.models.networks import difference, images, make, names, wrap


def test_a_bad_image_is_flagged_and_leaves_the_others_as_they_are() -> None:
    network, batch = make("AttentionGated", 2), images(2)
    explainers = [Saliency(), EigenCAM(), IntegratedGradients(steps=16, tolerance=0.05)]
    expected = Engine(network, explainers, Predicted()).explain(batch, names(batch))
    bad = batch.clone()
    bad[1, 0, 3, 4] = torch.nan
    bad[2, 0, 5, 6] = torch.inf
    bad[3] = 2.0
    found = Engine(network, explainers, Predicted()).explain(bad, names(batch))
    flags = [0, ImageFlag.NOT_FINITE, ImageFlag.NOT_FINITE, ImageFlag.CONSTANT, 0]
    assert found.image_flags.tolist() == flags
    for row in (1, 2):
        assert found.maps[row].isnan().all() and found.logits[row].isnan().all()
        assert found.target_class[row].item() == -1
    for row in (0, 4):
        assert difference(found.maps[row], expected.maps[row]) < 1e-9
    assert found.maps[3].isfinite().all()


def test_a_prediction_that_cannot_be_told_from_certain_is_flagged() -> None:
    network, batch = make("AttentionGated", 2), images(2)
    assert not Engine(network, [Saliency()], Predicted()).explain(batch, names(batch)).image_flags.any()
    network.module.classifier.bias.data[2] = 40.0
    found = Engine(network, [Saliency()], Predicted()).explain(batch, names(batch))
    assert found.image_flags.tolist() == [ImageFlag.SATURATED] * 5
    assert found.maps.isfinite().all()


def test_maps_that_are_blank_or_not_finite_are_flagged_one_by_one() -> None:
    class Root(nn.Module):
        """Its gradient is infinite where a pixel is 0, and nothing where the picture is dark."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 4)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.head(self.conv(x.clamp_min(0).sqrt()).relu().mean((2, 3)))

    torch.manual_seed(0)
    network = wrap(Root())
    network.module.conv.weight.data.fill_(1.0)
    network.module.head.weight.data.abs_()
    batch = images(2, count=3).abs() + 0.1
    batch[1, 0, 0, 0] = 0.0
    batch[2] *= -1
    found = Engine(network, [Saliency(), GradCAM()], Classes(classes=("a",))).explain(batch, names(batch))
    assert found.map_flags[:, 0].tolist() == [[0, 0], [MapFlag.NOT_FINITE, 0], [MapFlag.BLANK, MapFlag.BLANK]]
    assert found.maps[1, 0, 0].isnan().all() and found.maps[1, 0, 1].isfinite().all()
