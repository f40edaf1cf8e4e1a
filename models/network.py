"""The explained network: built from its configuration, frozen, with a way to watch its layers."""

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models import forms
from models.answers import check_probabilities, described, is_opposite, logits_of, part_of
from models.capability import Capabilities, Capability
from models.composed import Composed
from models.errors import ConfigurationError
from models.folding import fold_batch_norms
from models.folds import Folds
from models.inputs import check_inputs
from models.layers import Head, SpatialLayer, find_classifier, find_head, hooked, is_laid_out, spatial_layers
from models.network_config import NetworkConfig, check_classes
from models.norms import calls_instance_norm, contiguous_gradients
from models.records import RecordField
from models.trial import (
    alike,
    changes_its_input,
    check_function,
    check_logits,
    exact_convolutions,
    in_steps,
    synthetic,
    told,
)
from models.windows import Tiles

Precision = Literal["fp32", "bf16"]

INPUT_OF = "input of "
"""The name of the input of a layer that is watched begins so."""

# These classes are named by strings, since to import MONAI takes seconds.
_ATTENTION = ("SABlock", "CrossAttentionBlock", "WindowAttention", "MultiheadAttention")


class Network:
    """A module in evaluation mode whose parameters take no gradients.

    Parameters
    ----------
    module
        Takes ``(batch, channel, *space)`` and returns logits ``(batch, class)``, or ``(batch, class, *space)`` where
        it segments; `config` says what else it may return. It is changed in place: its BatchNorms are folded.
        Where there are `fields`, it takes ``(batch, field)`` as its second argument.
    config
        Shapes and class names that the module must fit.
    precision
        The precision in which the module computes; parameters, inputs and answers are float32 either way.
    fields
        The fields of the record that the module takes beside an image.

    Attributes
    ----------
    form, capabilities
        The form that the module is held in, in words, and the ways in which it can be asked.
    segments
        Whether there is a logit at each place.
    logits
        ``(image, class)`` about two images that are not alike, which tell how far logits vary; means over space.

    Raises
    ------
    ConfigurationError
        If the module does not take the configured shape, does not return logits for each class, or is no function of
        the image alone.
    """

    def __init__(
        self,
        module: nn.Module,
        config: NetworkConfig,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        fields: Sequence[RecordField] = (),
    ) -> None:
        self.config = config
        self.fields = tuple(fields)
        self._beside: Tensor | None = None
        self.device = torch.device(device)
        self.precision: Precision = "fp32"
        self.module = module.eval().to(self.device)
        for parameter in self.module.parameters():  # `requires_grad_` of a TorchScript module is not supported
            parameter.requires_grad_(False)
        self.name = type(module).__name__
        self.form, self.capabilities = forms.title(module), forms.capabilities(module)
        if fields:  # other backward rules are made for one input
            self.form, self.capabilities = f"{self.form} with a record", self.capabilities - {Capability.RULES}
        self._format = torch.contiguous_format
        self._normalises_images = False
        self._heads: dict[str, Head | None] = {}
        self._folded: dict[str, str] = {}
        check_classes(config)
        for part in module.parts if isinstance(module, Composed) else (module,):
            check_inputs(part, type(part).__name__, self.fields)
        with torch.no_grad(), exact_convolutions():
            self.segments = self._check_shapes() > 2
            expected = self.check(self.synthetic(), self.synthetic_record())
            self._folded = fold_batch_norms(self.module, lambda: self._made_up(self.synthetic()))
            self._order_fast(expected)
        self.logits = expected.flatten(2).mean(-1) if self.segments else expected
        self.precision = precision  # the checks above are exact

    def __call__(self, images: Tensor, record: Tensor | None = None) -> Tensor:
        """Compute the logits of ``(image, channel, *space)`` and, where there are fields, of ``(image, field)``.

        None stands for the record of `beside`.
        """
        return self.logits_of(self.answers(images, record))

    @contextmanager
    def beside(self, record: Tensor | None) -> Iterator[None]:
        """Let the network take `record` ``(image, field)`` beside the images that it is asked about in the body."""
        before, self._beside = self._beside, record
        try:
            yield
        finally:
            self._beside = before

    def _inputs(self, images: Tensor, record: Tensor | None) -> tuple[Tensor, ...]:
        if not self.fields:
            return (images,)
        record = self._beside if record is None else record
        if record is None or record.shape != (len(images), len(self.fields)):
            found = "none" if record is None else f"one of shape {tuple(record.shape)}"
            raise ConfigurationError(
                f"{self.name} takes a record of shape {(len(images), len(self.fields))} beside {len(images)} images, "
                f"and was given {found}"
            )
        return images, record

    def answers(self, images: Tensor, record: Tensor | None = None) -> Tensor:
        """Ask the module, and take the part of its output that counts: `logits_of` makes logits of it."""
        inputs = self._inputs(images, record)
        is_rounded = self.precision == "bf16"
        versions = [None if part.is_inference() else part._version for part in inputs]
        backward = contiguous_gradients() if self._normalises_images else nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_rounded), backward:
            output = self.module(*inputs)
        if any(version not in (None, part._version) for version, part in zip(versions, inputs, strict=True)):
            raise ConfigurationError(changes_its_input(self.name))
        answers: Tensor = self._part(output)
        return answers.float() if is_rounded else answers

    def _part(self, output: Any) -> Any:
        return output if isinstance(self.module, Composed) else part_of(output, self.config.output, self.name)

    @property
    def alone(self) -> tuple[Callable[..., Tensor], ...]:
        """The answers that are combined, as functions of prepared images and records: those of folds, or its own."""
        if not isinstance(self.module, Folds):
            return (self.answers,)
        return tuple(
            lambda images, record=None, ask=ask: ask(*self._inputs(images, record)) for ask in self.module.alone
        )

    def logits_of(self, answers: Tensor) -> Tensor:
        """Make logits of answers, for each class."""
        return logits_of(answers, self.config.outputs, self.config.activation, len(self.config.classes))

    def check(self, images: Tensor, record: Tensor | None = None) -> Tensor:
        """Try whether the answers about ``(image, channel, *space)`` depend on the image alone, and return them.

        Parameters
        ----------
        record
            ``(image, field)`` beside the images.

        Raises
        ------
        ConfigurationError
            If they do not, or are no logits.
        """
        if len(images) == 1:
            images = torch.cat([images, images.flip(-1)])
            record = None if record is None else record.expand(2, -1)
        images = self.prepare(images)
        record = None if record is None else record.to(images)

        with torch.no_grad(), self.exact(), exact_convolutions(), told(f"{self.name} fails on {len(images)} images"):
            logits = check_function(self, images, self.name, record)
            for ask in self.alone:

                def answer(images: Tensor, ask: Callable[..., Tensor] = ask) -> Tensor:
                    return ask(images, record)

                if self.config.outputs == "probabilities":
                    check_probabilities(answer(images), answer(images * 1000), self.config.activation, self.name)
                else:
                    check_logits(answer(images), self.config.activation, answer, images, self.name)
        return logits

    def check_same(self, trained: nn.Module, images: Tensor, record: Tensor | None = None) -> None:
        """Check that the answers about ``(image, channel, *space)`` are those of the module as it was trained.

        Raises
        ------
        ConfigurationError
            If they are not.
        """
        with torch.no_grad(), exact_convolutions(), told(f"{self.name} fails on {len(images)} images"):
            images = images.to(self.device)
            inputs = self._inputs(images, None if record is None else record.to(images))
            with self.exact():
                found = self(self.prepare(images), *inputs[1:])
            expected = self.logits_of(self._part(trained(*inputs)))
        if not alike(found, expected):
            folded = f" (its BatchNorms are folded into {', '.join(map(repr, self._folded))})" if self._folded else ""
            raise ConfigurationError(
                f"{self.name} answers otherwise about images of the cohort than as it was trained{folded}: let it keep "
                "nothing of one call for the next, and change nothing in place that it uses again"
            )

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Let the network compute in fp32 in the body, whatever its precision."""
        precision, self.precision = self.precision, "fp32"
        try:
            yield
        finally:
            self.precision = precision

    def require(self, title: str, requires: Capabilities) -> None:
        """Check that the network's form lets something ask as it has to.

        Raises
        ------
        ConfigurationError
            If it does not, with the ways out.
        """
        if lacking := [one.value for one in requires - self.capabilities]:
            other = "integrated_gradients" if self.fields else "name the class in model.network with a state dict"
            raise ConfigurationError(
                f"{title}: needs {' and '.join(sorted(lacking))}, which the form {self.form} does not give: use an "
                "explainer that only asks about changed images, such as occlusion, rise, lime or kernel_shap, or "
                f"{other}"
            )

    def require_record_gradient(self, title: str) -> None:
        """Check that gradients tell of every field how much it counts.

        Raises
        ------
        ConfigurationError
            If they do not.
        """
        if stepwise := [self.fields[field].name for field in self._in_steps]:
            raise ConfigurationError(
                f"{title}: {self.name} decides by {', '.join(stepwise)} in steps, such as an embedding, which have no "
                "gradient: use occlusion, feature_ablation, kernel_shap or shapley_sampling"
            )

    @cached_property
    def _in_steps(self) -> list[int]:
        if not self.fields:
            return []
        with torch.no_grad(), self.exact(), exact_convolutions(), told(f"{self.name} fails on made-up records"):
            return in_steps(self, self.synthetic(), self.synthetic_record())

    @property
    def tiles(self) -> Tiles:
        """The windows of an image, of which the network takes one at once."""
        return self.config.tiles

    def prepare(self, images: Tensor) -> Tensor:
        """Take ``(image, channel, *space)`` to the device, in the memory format in which the module is fastest."""
        return images.detach().to(self.device).contiguous(memory_format=self._format)

    def probability(self, logits: Tensor) -> Tensor:
        """Apply softmax or sigmoid over the classes; a regression's output stays as it is."""
        if self.config.activation == "identity":
            return logits
        return logits.softmax(1) if self.config.activation == "softmax" else logits.sigmoid()

    @cached_property
    def spatial_layers(self) -> tuple[str, ...]:
        """Names of the layers with a spatial extent on the way to the logits, in the order in which they finish."""
        return tuple(self._layers)

    @cached_property
    def _layers(self) -> dict[str, SpatialLayer]:
        layers = [
            name
            for name, _ in self.module.named_modules()
            if name and name not in self._folded and not self._is_within_attention(name)
        ]
        with told(f"{self.name} fails while its layers are looked at"):
            return spatial_layers(self.module, self._made_up, self.synthetic(), layers)

    def _is_within_attention(self, name: str) -> bool:
        """Tell whether the layer belongs to self-attention, whose outputs are tokens by tokens rather than places."""
        parents = [name[:end] for end in range(len(name)) if name[end] == "."]
        return any(type(self.module.get_submodule(parent)).__name__ in _ATTENTION for parent in parents)

    def layer(self, name: str | None) -> str:
        """Check a layer's name; None stands for the last layer with a spatial extent, laid out as the image is.

        Where the network segments, None stands for the last of the layers with the fewest places, the bottleneck: the
        last layer of all would be the segmentation itself.

        Raises
        ------
        ConfigurationError
            If there is no such layer, with the nearest names.
        """
        if name is None:
            return self._default_layer
        if name not in self.spatial_layers:
            names = [known for known, _ in self.module.named_modules() if known]
            if name in self._folded:
                raise ConfigurationError(
                    f"layer {name!r} is folded with the BatchNorm after it: name {self._folded[name]!r}"
                )
            if name in names:
                better = f"; the last that has all is {self.spatial_layers[-1]!r}" if self.spatial_layers else ""
                raise ConfigurationError(
                    f"layer {name!r} has no spatial extent, no row for each image, or no part in the logits{better}"
                )
            nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[-3:]
            raise ConfigurationError(
                f"there is no layer {name!r}; the nearest names are {', '.join(map(repr, nearest))}"
            )
        return name

    @cached_property
    def _default_layer(self) -> str:
        if isinstance(self.module, Folds):
            names = [name for name in self.spatial_layers if name.startswith("folds.0.")]
            raise ConfigurationError(
                f"{self.name}: a layer belongs to one of the folds: name one in `layer`, such as "
                f"{names[-1] if names else 'folds.0.…'!r}, and those of other folds in explainers with a `label`"
            )
        candidates = list(self._layers.items())[::-1]
        if self.segments:
            candidates.sort(key=lambda candidate: candidate[1].places)
        for name, layer in candidates:
            if layer.is_convolved or is_laid_out(name, self.module, self._made_up_beside_one, self.synthetic()):
                return name
        raise ConfigurationError(
            f"{self.name} has no layer with a spatial extent on the way to its logits, with a row for each image and "
            "its places where those of the image are: name one in `layer`, or use an explainer without layers"
        )

    @contextmanager
    def watch(self, layers: Collection[str]) -> Iterator[dict[str, Tensor]]:
        """Collect the outputs of `layers` while the body runs the module; of `INPUT_OF` a layer, what it takes.

        A collected output is on the way from input to logits, so that gradients with respect to it exist. A
        layer that no gradient reaches (parameters are frozen) starts the graph itself, so that a backward pass
        stops there. An in-place operation that follows the layer does not touch the collected output.
        """
        outputs: dict[str, Tensor] = {}

        def collect(name: str, output: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not output.requires_grad:
                output = output.detach().requires_grad_()
            outputs[name] = output
            return output.clone()

        def collect_input(name: str, inputs: Any, _: Any) -> None:
            outputs[INPUT_OF + name] = inputs[0].clone()

        takers = {name.removeprefix(INPUT_OF) for name in layers if name.startswith(INPUT_OF)}
        own = {name for name in layers if not name.startswith(INPUT_OF)}
        with (
            hooked(self.module, own, lambda name, _, output: collect(name, output)),
            hooked(self.module, takers, collect_input),
        ):
            yield outputs

    @cached_property
    def classifier(self) -> str | None:
        """Name of the linear layer whose answers are the logits; None if they come of anything else.

        It is found by a run of the module on images that are not alike.
        """
        if self.segments:
            return None
        with torch.no_grad(), self.exact(), exact_convolutions(), told(f"{self.name} fails on made-up images"):
            return find_classifier(self.module, self._made_up, self.synthetic())

    def features(self, layer: str) -> int:
        """Count the features of what is watched, ``(image, feature[, *layer_space])``."""
        with torch.no_grad(), self.watch([layer]) as outputs:
            self._made_up(self.synthetic())
        return outputs[layer].shape[1]

    def linear_head(self, layer: str) -> Head | None:
        """Find the linear layer whose answer are the logits, if it takes the mean over space of `layer`.

        It is found by a run of the module on images that are not alike; None if the head is anything else.
        """
        if layer not in self._heads:
            with torch.no_grad(), self.exact(), exact_convolutions():
                self._heads[layer] = (
                    None if self.segments else find_head(layer, self.module, self._made_up, self.synthetic())
                )
        return self._heads[layer]

    def without_linear_head(self, layer: str) -> None:
        """Take note that the logits are not linear in the mean over space of `layer` after all."""
        self._heads[layer] = None

    def synthetic(self, count: int = 2) -> Tensor:
        """Make images that are not alike, always the same, to try the module on: ``(count, channel, *space)``."""
        like = next(self.module.parameters(), torch.zeros((), device=self.device))
        return self.prepare(synthetic((self.config.channels, *self.config.input_shape), count).to(like))

    def synthetic_record(self, count: int = 2) -> Tensor:
        """Make records to try the module on, ``(count, field)``."""
        rows = [[field.tried[row % len(field.tried)] for field in self.fields] for row in range(count)]
        return torch.tensor(rows).to(self.synthetic(1))

    def _made_up(self, images: Tensor) -> Tensor:
        """Compute the logits of made-up images, with made-up records beside them."""
        return self(images, self.synthetic_record(len(images)))

    def _made_up_beside_one(self, images: Tensor) -> Tensor:
        """Compute the logits of made-up images, all with the same record."""
        return self(images, self.synthetic_record(1).expand(len(images), -1))

    def _check_shapes(self) -> int:
        """Return the number of the output's axes."""
        shape = (1, self.config.channels, *self.config.input_shape)
        record = f" and a record of shape {(1, len(self.fields))} (cohort.record)" if self.fields else ""
        with told(f"{self.name} does not take an image of shape {shape} (model.channels, model.input_shape){record}"):
            self._normalises_images, answers = calls_instance_norm(
                lambda: self.answers(self.synthetic(1), self.synthetic_record(1))
            )
        classes, one = self.config.classes, (1, 1)
        shapes = [(1, len(classes))] + [one] * is_opposite(1, len(classes), self.config.activation)
        found = tuple(answers.shape) if isinstance(answers, Tensor) else described(answers)
        if found not in [*shapes, *(shape + self.config.input_shape for shape in shapes)]:
            expected = shapes[0]
            raise ConfigurationError(
                f"{self.name} returns {found} for one image; {expected} was expected, or "
                f"{expected + self.config.input_shape} where it segments: one logit for each of model.classes "
                f"{list(classes)}"
            )
        if not answers.is_floating_point():
            raise ConfigurationError(f"{self.name} returns {answers.dtype}: logits were expected, no decision by them")
        return answers.ndim

    def _order_fast(self, expected: Tensor) -> None:
        """Lay weights and images out channels last, if the module answers as it does otherwise."""
        # Channels last is 1.15 to 1.4 times faster on a CPU, and tensor cores want it.
        fast = torch.channels_last if self.config.spatial_dims == 2 else torch.channels_last_3d
        self._lay_out(fast)
        try:
            is_right = alike(self._made_up(self.synthetic()), expected)
        except RuntimeError:  # such as that a view needs the other order
            is_right = False
        if not is_right:
            self._lay_out(torch.contiguous_format)

    def _lay_out(self, order: torch.memory_format) -> None:
        self._format = order
        for parameter in self.module.parameters():
            if parameter.ndim == self.config.spatial_dims + 2:
                # `contiguous` would leave the strides of a weight of one channel, which tell the order of its answers.
                parameter.data = torch.empty_like(parameter, memory_format=order).copy_(parameter)
