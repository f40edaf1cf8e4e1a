"""Questions that are put to the network, its answers, and the batch of images that they are about."""

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from models.capability import GRADIENT, Capabilities
from models.few_channels import few_channels
from models.network import Network
from models.relus import BackwardRule
from models.targets import Chosen


@dataclass(frozen=True)
class Seen:
    """The layers of the network as it answers about some windows, for one target.

    Attributes
    ----------
    inputs
        ``(window, channel, *space)``; an image that the network takes at once is one window.
    activations, gradients
        Layer name to its output ``(window, feature, *layer_space)`` and to the gradient of the explained scalar with
        respect to it; no gradients where none are required.
    """

    inputs: Tensor
    activations: dict[str, Tensor]
    gradients: dict[str, Tensor] = field(default_factory=dict)


class Looking(Protocol):
    """An explainer whose map of a window is made of the outputs of layers."""

    requires: ClassVar[Capabilities]

    def watched(self, network: Network) -> tuple[str, ...]: ...

    def look(self, seen: Seen, network: Network) -> Tensor: ...


@dataclass(frozen=True)
class Needs:
    """The parts of an answer, besides the logits, that an explainer uses; ``|`` joins the needs of several.

    Attributes
    ----------
    activations
        Layers whose outputs are kept.
    maps
        Those who make maps of layers, whose outputs are not kept.
    rules
        Other backward rules of ReLU, by which the gradient of the input is taken, too.
    """

    input_gradient: bool = False
    activations: frozenset[str] = frozenset()
    maps: frozenset[Looking] = frozenset()
    rules: frozenset[BackwardRule] = frozenset()

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.input_gradient or other.input_gradient,
            self.activations | other.activations,
            self.maps | other.maps,
            self.rules | other.rules,
        )

    @property
    def gradients(self) -> bool:
        return self.input_gradient or bool(self.rules) or any(one.requires >= GRADIENT for one in self.maps)


@dataclass(frozen=True)
class Answer:
    """The network's answer to some questions, for one target each.

    Attributes
    ----------
    inputs
        ``(question, channel, *space)``, the inputs as they were made, of the images' size.
    record, record_gradient
        ``(question, field)``, the records beside them, and the gradient of `score` with respect to these, which comes
        with that of the inputs.
    score
        ``(question,)``, the explained scalar: the target's logit.
    probability
        ``(question,)``, the target's probability; in a region its mean.
    decided
        ``(question,)`` bool, whether the network decides for the target.
    input_gradient
        Gradient of `score` with respect to `inputs`, same shape; None unless needed.
    activations
        Layer name to its output ``(question, feature, *layer_space)``.
    maps
        Explainer to the maps that it made of layers, ``(question, *space)``; those of windows are stitched together.
    by_rule
        Backward rule to the gradient of `score` with respect to `inputs` by that rule, same shape.
    image, step
        ``(question,)``: the image that is asked about, and the number of the question about it.
    target
        Number of the target along the targets.
    """

    inputs: Tensor
    score: Tensor
    probability: Tensor
    decided: Tensor
    image: Tensor
    step: Tensor
    target: int
    record: Tensor
    input_gradient: Tensor | None = None
    record_gradient: Tensor | None = None
    activations: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[Looking, Tensor] = field(default_factory=dict)
    by_rule: dict[BackwardRule, Tensor] = field(default_factory=dict)

    @property
    def gradient(self) -> Tensor:
        assert self.input_gradient is not None
        return self.input_gradient

    @property
    def gradient_of_record(self) -> Tensor:
        assert self.record_gradient is not None
        return self.record_gradient

    def rows(self, rows: slice) -> "Answer":
        """Take the answer to some of the questions."""
        return Answer(**{name: _each(value, lambda part: part[0][rows]) for name, value in self._parts([self])})

    @classmethod
    def join(cls, answers: Sequence["Answer"]) -> "Answer":
        """Make one answer from those of several batches, for the same target."""
        return cls(**{name: _each(values, together) for name, values in cls._parts(answers)})

    @classmethod
    def _parts(cls, answers: Sequence["Answer"]) -> Iterator[tuple[str, list[Any]]]:
        for known in fields(cls):
            yield known.name, [getattr(answer, known.name) for answer in answers]


def together(parts: list[Tensor]) -> Tensor:
    """Put tensors behind one another; one by itself is not copied, since it may be as large as an image."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _each(values: list[Any], change: Callable[[list[Tensor]], Tensor]) -> Any:
    """Change tensors, and tensors by name; leave anything else as it is."""
    first = values[0]
    if isinstance(first, Tensor):
        return change(values)
    if isinstance(first, dict):
        return {name: change([value[name] for value in values]) for name in first}
    return first


Ask = Callable[[Network, Tensor, Tensor, Tensor], Tensor]
"""A way to ask: from a network, inputs ``(question, channel, *space)``, images and steps ``(question,)`` to logits."""


@runtime_checkable
class Within(Protocol):
    """A way to ask that holds images of its own, of which it has to take windows."""

    def within(self, cut: Callable[[int, Tensor], Tensor]) -> Ask:
        """Ask about windows; `cut` takes the number of one and ``(1, channel, *grid)`` to ``(1, channel, *window)``."""
        ...


def plainly(network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
    """Ask the network as it is; other ways give it other backward rules, or change a layer on the way."""
    with few_channels():
        return network(inputs)


@dataclass(frozen=True)
class Questions:
    """Questions about images, as many about each; they are asked in batches, whose answers are folded as they come.

    Attributes
    ----------
    count
        The number of questions about an image.
    make
        A function from image indices and steps, both ``(question,)``, to inputs ``(question, channel, *space)``.
    fold
        A function that takes each batch's answers, once for each target.
    ask
        The way in which the network is asked; questions with equal `ask` share batches.
    key
        A key of the questions: those with equal keys are asked once, and their answers go to every `fold`.
    among
        ``(image,)`` indices of the images that are asked about; None for all.
    make_record
        A function as `make` to records ``(question, field)``; None: each question is asked beside its image's own.
    """

    count: int
    make: Callable[[Tensor, Tensor], Tensor]
    fold: Callable[[Answer], None]
    needs: Needs = Needs()
    ask: Ask = plainly
    key: Hashable = None
    among: Tensor | None = None
    make_record: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class PlainAnswers:
    """The network's answers about images as they are.

    Attributes
    ----------
    logits
        ``(image, class[, *space])``.
    chosen
        The explained classes of each image.
    answers
        For each target, the answer to the plain question, with what `Explainer.needs` asked for.
    windows
        The logits of the windows of the images, once they were asked for.
    """

    logits: Tensor
    chosen: Chosen
    answers: tuple[Answer, ...]
    windows: list[Tensor]


@dataclass(frozen=True)
class Batch:
    """The images to explain, and the network's answers about them as they are.

    Attributes
    ----------
    images
        ``(image, channel, *space)``.
    ids
        Names of the images: noise depends on them and on nothing else.
    record
        ``(image, field)``, the records beside the images; without fields where the network takes images alone.
    plain
        A function that puts the plain question to the network when it is called first, and remembers the answers:
        nobody may look at them.
    fitted
        By name, the artefacts that were computed before: `models.fits`.
    known
        Values that explainers worked out once for all images.
    keeps_channels
        Whether the maps of each channel are asked for, too.
    """

    network: Network
    images: Tensor
    ids: tuple[str, ...]
    record: Tensor
    plain: Callable[[], PlainAnswers]
    fitted: Mapping[str, Tensor] = field(default_factory=dict)
    known: dict[Hashable, Any] = field(default_factory=dict)
    keeps_channels: bool = False

    @property
    def logits(self) -> Tensor:
        return self.plain().logits

    @property
    def chosen(self) -> Chosen:
        return self.plain().chosen

    @property
    def answers(self) -> tuple[Answer, ...]:
        return self.plain().answers

    def once(self, key: Hashable, work_out: Callable[[], Any]) -> Any:
        """Look up a value that does not depend on the images: it is worked out for the first batch, and remembered."""
        if key not in self.known:
            self.known[key] = work_out()
        return self.known[key]

    @cached_property
    def reference(self) -> Tensor:
        """The record with every field taken away, ``(image, field)``."""
        return self.record.new_tensor([field.reference for field in self.network.fields]).expand_as(self.record)

    def record_of(self, questions: Questions, image: Tensor, step: Tensor) -> Tensor:
        """Make the records of some questions, ``(question, field)``."""
        return self.record[image] if questions.make_record is None else questions.make_record(image, step)

    def zeros(self, channels: int | None = None) -> Tensor:
        """Make an accumulator: ``(target, image, [channel,] *space)``."""
        head = () if channels is None else (channels,)
        return self.images.new_zeros(len(self.answers), len(self.images), *head, *self.images.shape[2:])

    @property
    def scores(self) -> Tensor:
        """The explained scalars of the images as they are, ``(target, image)``."""
        return torch.stack([answer.score for answer in self.answers])


def per_question(values: Tensor, like: Tensor) -> Tensor:
    """View ``(question,)`` so that it multiplies `like` ``(question, ...)``."""
    return values.view(-1, *[1] * (like.ndim - 1))


def constant_score(batch: Batch, value: float) -> Generator[Questions, None, Tensor]:
    """Ask once for all about an image that is `value` everywhere; return its explained scalars, ``(target, image)``.

    Of a record beside it, every field is taken away.
    """
    scores = batch.images.new_zeros(len(batch.answers), len(batch.images))

    def make(image: Tensor, step: Tensor) -> Tensor:
        return torch.full_like(batch.images[image], value)

    def fold(answer: Answer) -> None:
        scores[answer.target, answer.image] = answer.score

    yield Questions(1, make, fold, key=("constant", value), make_record=lambda image, _: batch.reference[image])
    return scores
