"""The configuration of the explained network: its files, and what it takes and returns."""

import unicodedata
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from models.answers import Activation, Meaning
from models.components import Component
from models.errors import ConfigurationError
from models.folds import Combine
from models.heads import HeadConfig
from models.windows import Tiles, Windows, tiles_of

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

T = TypeVar("T")
BY_NUMBER = ("one", "several")
OneOrSeveral = Annotated[
    Annotated[T, Tag("one")] | Annotated[tuple[T, ...], Field(strict=False, min_length=2), Tag("several")],
    Discriminator(lambda value: BY_NUMBER[isinstance(value, list | tuple)]),
]
"""A value, or a list of them; what is wrong with one of them is told of that alone."""


class NetworkConfig(BaseModel):
    """The network's class, and the shapes and names of its input and output."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    network: Component | None = Field(
        None,
        description="The class and its arguments, e.g. `{_target_: monai.networks.nets.DenseNet121, spatial_dims: 2}`; "
        "none: the file of weights holds the network, too",
    )
    weights_key: str | None = Field(
        None,
        description="Where in a checkpoint the state dict lies, such as `ema.model`, or `state_dict.encoder` for names "
        "that begin so; none: it holds only one",
    )
    sha256: OneOrSeveral[Digest] | None = Field(
        None, description="Expected digest of the file of weights; of several, their list"
    )
    combine: Combine = Field(
        "probabilities", description="Of several files of weights, one a fold: what the mean over folds is of"
    )
    head: HeadConfig | None = Field(None, description="A linear layer on the features that the network returns")
    reference: HeadConfig | None = Field(
        None, description="Features of references: the outputs are the cosine similarities to them"
    )
    classes: tuple[str, ...] = Field(strict=False, min_length=1, description="Names of the outputs, in order")
    channels: int = Field(1, ge=1, description="Channels of the image the network takes")
    input_shape: tuple[int, ...] = Field(
        strict=False,
        min_length=2,
        max_length=3,
        description="[y, x] or [z, y, x] of an image, or of the window that it takes at once",
    )
    windows: Windows | None = Field(
        None, description="How it goes over images larger than `input_shape`; none: it takes an image at once"
    )
    activation: Activation = Field(
        "softmax",
        description="softmax: one class an image; sigmoid: each class by itself, or two classes of one output; "
        "identity: a regression",
    )
    output: str | int | None = Field(
        None,
        description="The part of what the network returns that counts: a key, an attribute or a place, such as "
        "`logits` or `out.1`; none: the whole, or the first of a tuple",
    )
    outputs: Meaning = Field(
        "logits", description="probabilities: the network ends in its softmax or sigmoid, which is taken back"
    )

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        if self.windows is not None:
            self.windows.check(self.input_shape)
        return self

    @property
    def spatial_dims(self) -> int:
        return len(self.input_shape)

    @property
    def tiles(self) -> Tiles:
        """The windows of an image; one that the network takes at once is its only window."""
        return tiles_of(self.windows, self.input_shape)

    @property
    def grid(self) -> tuple[int, ...]:
        """The sides of the images that are explained."""
        return self.tiles.grid


def check_classes(config: NetworkConfig) -> None:
    """Check the names of the outputs, and what they can be with these activations.

    Raises
    ------
    ConfigurationError
        If a name is missing or there twice, or one logit is to have a softmax.
    """
    classes = config.classes
    if blank := [name for name in classes if not name.strip()]:
        raise ConfigurationError(f"model.classes holds the name {blank[0]!r}: give each output a name")
    spelt = [unicodedata.normalize("NFC", name).strip() for name in classes]
    if repeated := sorted({name for name in spelt if spelt.count(name) > 1}):
        raise ConfigurationError(f"model.classes names {repeated[0]!r} more than once: give each output its own name")
    if len(classes) == 1 and config.activation == "softmax":
        raise ConfigurationError(
            f"model.activation is softmax and model.classes is {list(classes)}: the softmax of one logit is always 1. "
            "Set `activation: sigmoid`, or `identity` for a regression"
        )
    if config.outputs == "probabilities" and config.activation == "identity":
        raise ConfigurationError(
            "model.outputs is probabilities and model.activation is identity: set `model.activation` to the last "
            "activation of the network, softmax or sigmoid; or leave model.outputs out, and its outputs are explained "
            "as they are"
        )
