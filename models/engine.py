"""The engine puts the questions of all explainers together, asks each question once, and keeps every batch full.

An explanation is a reduction over questions put to the model. The plain question, the image as it is, comes first
and serves prediction and every explainer that needs no other. Then each explainer yields its questions. All questions
that are asked in the same way are dealt out in full batches, whatever image or explainer they come from, and their
answers are folded as they come: memory depends on the batch, never on the number of questions.
"""

import logging
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, TypeVar

import torch
from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.base import (
    CHANNEL_MAPS,
    CHANNEL_SHARE,
    MAP_FLAGS,
    MAPS,
    MODALITY_SHARE,
    RECORD_VALUES,
    Explainer,
    MapExplainer,
)
from models.flags import MapFlag, flag_images, flag_maps
from models.layers import Head
from models.network import Network
from models.outputs import Computed
from models.prediction import IMAGE_FLAGS, LOGIT, PROBABILITY, TARGET_CLASS
from models.questions import Answer, Ask, Batch, Needs, Questions, plainly
from models.streams import Stream, ways
from models.targets import NO_CLASS, Chosen, Target
from models.trial import no_gradient, told

logger = logging.getLogger(__name__)
T = TypeVar("T")
_CHANNELS, _RECORD = (CHANNEL_MAPS, CHANNEL_SHARE), (RECORD_VALUES, MODALITY_SHARE)
_BY_EXPLAINER = (MAPS, *_CHANNELS, *_RECORD)


@dataclass(frozen=True)
class Explanation:
    """The outputs that were computed from some images: predictions, maps, and what else explainers declare.

    Attributes
    ----------
    outputs
        By name, ``(image, ...)``.
    logits, probability
        ``(image, class)``; the means over space where the network segments. NaN for an image that is not finite.
    target_class
        ``(image, target)`` class indices; -1 where the image has no such target.
    maps
        ``(image, target, explainer, *space)``, signed and unnormalised; NaN where there is no target, where the
        image is not finite, and where a map came out not finite.
    image_flags, map_flags
        ``(image,)`` and ``(image, target, explainer)``, of `ImageFlag` and `MapFlag`.
    """

    outputs: Computed

    @property
    def logits(self) -> Tensor:
        return self.outputs[LOGIT]

    @property
    def probability(self) -> Tensor:
        return self.outputs[PROBABILITY]

    @property
    def target_class(self) -> Tensor:
        return self.outputs[TARGET_CLASS]

    @property
    def maps(self) -> Tensor:
        return self.outputs[MAPS]

    @property
    def image_flags(self) -> Tensor:
        return self.outputs[IMAGE_FLAGS]

    @property
    def map_flags(self) -> Tensor:
        return self.outputs[MAP_FLAGS]


class Engine:
    """An engine explains images by several explainers together.

    Parameters
    ----------
    fitted
        By name, the artefacts that explainers use: `models.fits`.
    keeps_channels
        Whether `explain` makes the maps of each channel, too.

    Attributes
    ----------
    forward_passes, backward_passes
        Questions answered so far, and gradients taken of them.
    halvings
        How often memory did not suffice for a batch.

    Raises
    ------
    ConfigurationError
        If an explainer cannot be right on the network, or the target names classes that the network does not have.
    """

    def __init__(
        self,
        network: Network,
        explainers: Sequence[Explainer],
        target: Target,
        batch_size: int = 16,
        fitted: Mapping[str, Tensor] | None = None,
        *,
        keeps_channels: bool = False,
    ) -> None:
        target.check(network)
        self.network = network
        self.target = target
        self.batch_size = batch_size
        self.keeps_channels = keeps_channels
        self.forward_passes = self.backward_passes = self.halvings = 0
        self._known: dict[Hashable, Any] = {}
        self.asking = tuple(explainers)
        self.explainers = [explainer for explainer in explainers if isinstance(explainer, MapExplainer)]
        self.needs = reduce(or_, (_needs(explainer, network) for explainer in explainers), Needs())
        self.fitted = _Fitted({name: artefact.to(network.device) for name, artefact in (fitted or {}).items()})

    def explain(
        self, images: Tensor, ids: Sequence[str], masks: Tensor | None = None, record: Tensor | None = None
    ) -> Explanation:
        """Explain ``(image, channel, *space)``, on the CPU or the network's device.

        Parameters
        ----------
        ids
            Names of the images.
        masks
            ``(image, *space)`` bool; only the target `region` of the mask uses them.
        record
            ``(image, field)``, where the network takes one beside an image.

        Raises
        ------
        ConfigurationError
            If an explainer uses an artefact that is not in `fitted`.
        """
        images = self.network.prepare(images)
        finite = _finite(images)
        batch = replace(self.batch(images, ids, masks, record=record), keeps_channels=self.keeps_channels)
        found = self.answer(batch, [_produce(explainer, batch) for explainer in self.asking])
        logits, maps = batch.logits, self._stacked([one[MAPS] for one in found if MAPS in one], batch)
        flags = flag_maps(maps)
        there = (batch.chosen.classes >= 0) & finite[:, None]
        flags *= there[..., None]
        whole = there[..., None] & (flags & MapFlag.NOT_FINITE.value == 0)
        probability = self.network.probability(logits)
        if self.network.segments:
            logits, probability = logits.flatten(2).mean(-1), probability.flatten(2).mean(-1)
        logits, probability = (part.where(finite[:, None], torch.nan) for part in (logits, probability))
        others = {name: values for one in found for name, values in one.items() if name not in _BY_EXPLAINER}
        return Explanation(
            {
                LOGIT: logits,
                PROBABILITY: probability,
                TARGET_CLASS: batch.chosen.classes.where(finite[:, None], NO_CLASS),
                MAPS: maps.where(_over(whole, maps), torch.nan),
                IMAGE_FLAGS: flag_images(images, None if self.network.config.activation == "identity" else probability),
                MAP_FLAGS: flags,
                **_beside(found, whole, _CHANNELS),
                **_beside(found, whole, _RECORD),
                **{name: _where_finite(values, finite) for name, values in others.items()},
            }
        )

    def batch(
        self,
        images: Tensor,
        ids: Sequence[str],
        masks: Tensor | None = None,
        needs: Needs | None = None,
        chosen: Chosen | None = None,
        record: Tensor | None = None,
    ) -> Batch:
        """Ask the plain question about ``(image, channel, *space)``: all others start from its answer.

        An image that is not finite is replaced by zeros. `needs` says which parts of the answer are used, None: those
        that the explainers need. `chosen` says which classes are explained, None: the target chooses by the answer.
        `record` is what the network takes beside the images, ``(image, field)``.
        """
        images = self.network.prepare(images)
        images = images.where(_over(_finite(images), images), 0.0)
        masks = None if masks is None else masks.to(images.device)
        record = images.new_zeros(len(images), 0) if record is None else record.detach().to(images)
        needs = self.needs if needs is None else needs
        found: list[tuple[Tensor, Chosen, list[Answer]]] = []

        def put(rows: slice) -> None:
            def choose(outputs: Tensor) -> Chosen:
                if chosen is not None:
                    return chosen.rows(rows)
                return self.target.choose(outputs, self.network, None if masks is None else masks[rows])

            image = torch.arange(rows.start, rows.stop, device=images.device)
            found.append(self._put(images[rows], record[rows], image, torch.zeros_like(image), needs, plainly, choose))

        self._in_batches(len(images), put)
        logits, chosen_by_batch, answers = zip(*found, strict=True)
        joined = tuple(Answer.join(parts) for parts in zip(*answers, strict=True))
        everything = Chosen.join(chosen_by_batch)
        return Batch(
            self.network, images, tuple(ids), torch.cat(logits), everything, joined, record, self.fitted, self._known
        )

    def maps(self, batch: Batch) -> Tensor:
        """Make the maps of all explainers, ``(image, target, explainer, *space)``, finite or not."""
        found = self.answer(batch, [_produce(explainer, batch) for explainer in self.explainers])
        return self._stacked([one[MAPS] for one in found], batch)

    def _stacked(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """Stack ``(image, target, *space)`` of each explainer along a third axis."""
        return torch.stack(list(maps), dim=2) if maps else batch.zeros().transpose(0, 1)[:, :, None][:, :, :0]

    def answer(self, batch: Batch, asking: Sequence[Generator[Questions, None, T]]) -> list[T]:
        """Answer the questions of all generators until each has returned; equal questions are asked once."""
        running = dict(enumerate(asking))
        results: dict[int, T] = {}
        with torch.no_grad():
            while running:
                asked = []
                for index, one in list(running.items()):
                    try:
                        asked.append(next(one))
                    except StopIteration as finished:
                        results[index] = finished.value
                        del running[index]
                self._ask(batch, asked)
        return [results[index] for index in sorted(results)]

    def _ask(self, batch: Batch, asked: Sequence[Questions]) -> None:
        for (ask, needs), questions in ways(asked).items():
            stream = Stream(questions, len(batch.images))

            def put(rows: slice, stream: Stream = stream, needs: Needs = needs, ask: Ask = ask) -> None:
                parts = list(stream.parts(rows, batch.images.device))
                inputs = torch.cat([question.make(image, step) for question, image, step, _ in parts])
                record = torch.cat([batch.record_of(question, image, step) for question, image, step, _ in parts])
                image = torch.cat([image for _, image, _, _ in parts])
                step = torch.cat([step for _, _, step, _ in parts])
                _, _, answers = self._put(inputs, record, image, step, needs, ask, lambda _: batch.chosen.rows(image))
                for answer in answers:
                    for question, _, _, own in parts:
                        question.fold(answer.rows(own))

            self._in_batches(stream.total, put)

    def _in_batches(self, total: int, put: Callable[[slice], None]) -> None:
        """Call `put` with consecutive rows; where memory does not suffice for a batch, the batch size is halved."""
        start = 0
        while start < total:
            stop = min(start + self.batch_size, total)
            try:
                put(slice(start, stop))
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                self.halvings += 1
                logger.warning("out of memory: batches of %d from now on", self.batch_size)
                torch.cuda.empty_cache()
                continue
            start = stop

    def _put(
        self,
        inputs: Tensor,
        record: Tensor,
        image: Tensor,
        step: Tensor,
        needs: Needs,
        ask: Ask,
        choose: Callable[[Tensor], Chosen],
    ) -> tuple[Tensor, Chosen, list[Answer]]:
        """Run the network forward once, and backward once for each target."""
        layers = sorted(needs.activation_gradients)
        heads = (
            [self.network.linear_head(layer) for layer in layers] if ask is plainly and not needs.input_gradient else []
        )
        closed = bool(heads) and all(heads)
        inputs = self.network.prepare(inputs).requires_grad_(needs.input_gradient)
        record = record.detach().requires_grad_(needs.input_gradient)
        watched = needs.activations | needs.activation_gradients
        # Another backward rule counts on differences that bf16 would round away.
        precision = nullcontext() if ask is plainly else self.network.exact()
        with (
            precision,
            torch.set_grad_enabled(needs.gradients and not closed),
            self.network.watch(watched) as activations,
            self.network.beside(record),
        ):
            logits = ask(self.network, inputs, image, step)
            detached = logits.detach()
            chosen = choose(detached)
            scores = chosen.score(logits)
            # Images do not mix in evaluation mode, so the gradient of the sum holds each image's own.
            sums = scores.sum(0).unbind()
        if closed and (wrong := self._not_linear(layers, heads, activations, detached)):
            for layer in wrong:
                self.network.without_linear_head(layer)
            return self._put(inputs, record, image, step, needs, ask, choose)
        outputs = self.network.probability(detached)
        probability, decided = chosen.mean(outputs), chosen.decided(outputs, self.network.config.activation)
        self.forward_passes += len(inputs)
        self.backward_passes += len(inputs) * len(sums) * (needs.gradients and not closed)
        wanted = [activations[layer] for layer in layers] + [inputs, record] * needs.input_gradient
        self._check_answer(activations, len(inputs), scores.requires_grad or closed or not wanted)
        answers = []
        for target, total in enumerate(sums):
            if closed:
                gradients = [_through(head, part, chosen, target) for head, part in zip(heads, wanted, strict=True)]
            elif wanted and (chosen.classes[:, target] != NO_CLASS).any():
                gradients = self._gradients(total, wanted, record, retain_graph=target + 1 < len(sums))
            else:
                gradients = [torch.zeros_like(part) for part in wanted]
            of_inputs: Sequence[Tensor | None] = gradients[len(layers) :] or (None, None)
            answers.append(
                Answer(
                    inputs=inputs.detach(),
                    score=scores[:, target].detach(),
                    probability=probability[:, target],
                    decided=decided[:, target],
                    image=image,
                    step=step,
                    target=target,
                    record=record.detach(),
                    input_gradient=of_inputs[0],
                    record_gradient=of_inputs[1],
                    activations={name: _full(activation.detach()) for name, activation in activations.items()},
                    activation_gradients=dict(zip(layers, map(_full, gradients), strict=False)),
                )
            )
        return detached, chosen, answers

    def _not_linear(
        self, layers: Sequence[str], heads: Sequence[Head | None], activations: Mapping[str, Tensor], logits: Tensor
    ) -> list[str]:
        """Find the layers whose heads do not explain the logits of these images; bf16 rounds too much away to tell."""
        if self.network.precision == "bf16":
            return []
        pairs = zip(layers, heads, strict=True)
        return [layer for layer, head in pairs if head and not head.explains(activations[layer], logits)]

    def _check_answer(self, activations: Mapping[str, Tensor], rows: int, has_gradients: bool) -> None:
        for layer, activation in activations.items():
            if len(activation) != rows:
                raise ConfigurationError(
                    f"layer {layer!r} has {len(activation)} rows for {rows} images: name one with a row for each image"
                )
        if not has_gradients:
            raise ConfigurationError(no_gradient(self.network.name))

    def _gradients(self, total: Tensor, wanted: Sequence[Tensor], record: Tensor, retain_graph: bool) -> list[Tensor]:
        """Compute gradients with respect to layers and inputs, of which only the record may have no part."""
        found = torch.autograd.grad(total, wanted, retain_graph=retain_graph, allow_unused=True)
        pairs = list(zip(found, wanted, strict=True))
        if any(gradient is None and part is not record for gradient, part in pairs):
            raise ConfigurationError(no_gradient(self.network.name))
        return [torch.zeros_like(part) if gradient is None else gradient for gradient, part in pairs]


def _through(head: Head | None, layer: Tensor, chosen: Chosen, target: int) -> Tensor:
    """Compute the gradient with respect to `layer` of a score that is linear in its mean over space, without a pass."""
    assert head is not None
    weights = head.weight[chosen.classes[:, target].clamp_min(0)]
    if chosen.against is not None:
        weights = weights - head.weight[chosen.against[:, target]]
    return _over(weights / layer[0, 0].numel(), layer).expand_as(layer)


def _full(values: Tensor) -> Tensor:
    """Take values that bf16 computed to float32."""
    return values.float() if values.dtype == torch.bfloat16 else values


def _finite(images: Tensor) -> Tensor:
    return images.flatten(1).isfinite().all(1)


def _over(values: Tensor, like: Tensor) -> Tensor:
    """View values of the first axes so that they spread over the others of `like`."""
    return values.view(*values.shape, *[1] * (like.ndim - values.ndim))


def _beside(found: Sequence[Computed], whole: Tensor, names: Sequence[str]) -> Computed:
    """Stack what comes beside maps, attributions first and shares, along a third axis, where explainers made it.

    NaN where the map is not `whole`, ``(image, target, explainer)``, or an attribution came out not finite.
    """
    made = [one for one in found if names[0] in one]
    if not made:
        return {}
    stacked = {name: torch.stack([one[name] for one in made], dim=2) for name in names}
    whole = whole & stacked[names[0]].flatten(3).isfinite().all(-1)
    return {name: values.where(_over(whole, values), torch.nan) for name, values in stacked.items()}


def _where_finite(values: Tensor, finite: Tensor) -> Tensor:
    """Leave out the values of images that are not finite; whole numbers, which have no NaN, stay as they are."""
    return values.where(_over(finite, values), torch.nan) if values.is_floating_point() else values


class _Fitted(dict[str, Tensor]):
    """Artefacts by name; to take one that is missing is an error that a user can mend."""

    def __missing__(self, name: str) -> Tensor:
        raise ConfigurationError(
            f"uses the artefact {name!r}, which is computed from images of the cohort; the engine was built without it"
        )


def _produce(explainer: Explainer, batch: Batch) -> Generator[Questions, None, Computed]:
    """Let an explainer produce; an error that a user can mend names it."""
    try:
        return (yield from explainer.produce(batch))
    except ConfigurationError as error:
        raise ConfigurationError(f"{explainer.title}: {error}") from None


def _needs(explainer: Explainer, network: Network) -> Needs:
    network.require(explainer.title, explainer.requires)
    if isinstance(explainer, MapExplainer) and explainer.by_gradient_of_record:
        network.require_record_gradient(explainer.title)
    try:
        with told(f"{network.name} fails"):
            return explainer.needs(network)
    except ConfigurationError as error:
        raise ConfigurationError(f"{explainer.title}: {error}") from None
