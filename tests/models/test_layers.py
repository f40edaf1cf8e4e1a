"""The layer that class activation maps take where none is named, and the linear head that stands in for gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.cam import CAM
from models.explainers.gradcam import GradCAM
from models.explainers.hirescam import HiResCAM
from models.explainers.layercam import LayerCAM
from models.explainers.saliency import Saliency
from models.targets import Classes
from tests.models.networks import difference, wrap

SHAPE = (12, 18)


class Layered(nn.Module):
    """Two convolutions and a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, stride=3), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.second(self.first(images).relu()).mean((2, 3)))


class Auxiliary(Layered):
    """A decoder beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Conv2d(8, 1, 1)

    def forward(self, images: Tensor) -> Any:
        features = self.second(self.first(images).relu())
        return self.head(features.mean((2, 3))), self.decoder(features)


class HandingOn(Layered):
    """A layer that returns its input, whose output nothing takes, as at the end of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu())
        self.down(features)
        return self.head(features.mean((2, 3)))


class Attending(Layered):
    """Self-attention over places, whose softmax is tokens by tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.attention, self.dropout = nn.Linear(8, 24), nn.Softmax(-1), nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.second(self.first(images).relu()).flatten(2).transpose(1, 2)
        q, k, v = self.parts(tokens).view(len(images), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = self.dropout(self.attention(q @ k.transpose(-1, -2) / 2)) @ v
        return self.head((tokens + mixed.transpose(1, 2).reshape(tokens.shape)).mean(1))


class ChannelsLast(Layered):
    """A layer of ``(image, y, x, channel)``, as in transformers of windows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu()).permute(0, 2, 3, 1)
        return self.head(self.mix(self.norm(features)).mean((1, 2)))


class Returning(ChannelsLast):
    """Channels last within, and a map again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.back = Permuting()

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu()).permute(0, 2, 3, 1)
        return self.head(self.back(self.mix(self.norm(features))).mean((2, 3)))


class Permuting(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.permute(0, 3, 1, 2)


class Patched(Layered):
    """Patches along the first axis until the head."""

    def forward(self, images: Tensor) -> Tensor:
        patches = images.unfold(2, 6, 6).unfold(3, 6, 6).reshape(-1, 1, 6, 6)
        features = self.second(self.first(patches).relu()).mean((2, 3))
        return self.head(features.view(len(images), -1, 8).amax(1))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Layered, "second"),
        (Auxiliary, "second"),
        (HandingOn, "second"),
        (Attending, "second"),
        (ChannelsLast, "second"),
        (Returning, "back"),
    ],
)
def test_the_default_layer_has_a_part_in_the_logits_and_the_axes_of_the_image(make: Any, expected: str) -> None:
    torch.manual_seed(0)
    assert wrap(make(), shape=SHAPE).layer(None) == expected


@pytest.mark.parametrize(("layer", "message"), [(None, "has no layer"), ("second", "no row for each image")])
def test_a_layer_whose_rows_are_no_images_is_refused(layer: str | None, message: str) -> None:
    network = wrap(Patched(), shape=SHAPE)
    with pytest.raises(ConfigurationError, match=message):
        GradCAM(layer=layer).needs(network)


def test_a_layer_without_a_part_in_the_logits_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'decoder' has .* no part in the logits; the last .* 'second'"):
        GradCAM(layer="decoder").needs(wrap(Auxiliary(), shape=SHAPE))


class Masked(Layered):
    """The mean over the places that are not empty, which is that over all places where none is."""

    def forward(self, images: Tensor) -> Tensor:
        kept = (functional.max_pool2d(images.abs(), 3) > 1e-3).to(images)
        features = self.second(self.first(images).relu()) * kept
        return self.head(features.sum((2, 3)) / kept.sum((2, 3)).clamp_min(1))


class Switching(Layered):
    """A mean of what is over a bound, for bright images alone."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu())
        bright = (images.flatten(1).amax(1) > 100)[:, None]
        return self.head(torch.where(bright, features.amax((2, 3)), features.mean((2, 3))))


@pytest.mark.parametrize("explainer", [GradCAM(layer="second"), HiResCAM(layer="second"), LayerCAM(layer="second")])
@pytest.mark.parametrize("make", [Layered, Masked, Switching])
def test_maps_do_not_depend_on_the_way_to_the_gradient(make: Any, explainer: Any) -> None:
    torch.manual_seed(0)
    batch = torch.randn(3, 1, *SHAPE, dtype=torch.float64)
    batch[0, :, :7] = 0
    batch[1] *= 1000
    module = make()

    def maps(*explainers: Any) -> Tensor:
        engine = Engine(wrap(module, shape=SHAPE), explainers, Classes(classes=("b",)))
        return engine.explain(batch, "abc").maps[:, 0, -1]

    alone, beside = maps(explainer), maps(Saliency(), explainer)
    assert difference(alone, beside) < 1e-12


def test_cam_is_refused_when_an_image_shows_that_the_head_is_not_linear() -> None:
    torch.manual_seed(0)
    network, batch = wrap(Switching(), shape=SHAPE), torch.randn(2, 1, *SHAPE, dtype=torch.float64)
    engine = Engine(network, [CAM(layer="second")], Classes(classes=("b",)))
    assert engine.explain(batch, "ab").maps.isfinite().all()
    with pytest.raises(ConfigurationError, match="not linear in the mean over space of 'second'"):
        engine.explain(batch * 1000, "ab")
