"""Asking: inputs are put to the network, forward once and backward once for each target and backward rule.

Where the network takes one window of an image at once, its windows are asked about in full batches. What is explained,
a sum of the merged logits, is then the sum of what each window adds to it, so that the gradients of the windows add up
to that of the image. How much a window adds is known beforehand, or after all were asked about; those that matter are
asked about once more then, for the gradient. Memory depends on the batch of windows, and on the size of the image.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from models.capability import GRADIENT
from models.errors import ConfigurationError
from models.layers import Head
from models.merging import Merging, Plain, merging
from models.network import Network
from models.questions import Answer, Ask, Looking, Needs, Seen, Within, plainly
from models.relus import BackwardRule, Relus
from models.targets import NO_CLASS, Chosen
from models.trial import no_gradient


@dataclass(frozen=True, eq=False)
class Asked:
    """Inputs that are put to the network together.

    Attributes
    ----------
    inputs
        ``(question, channel, *grid)``.
    record
        ``(question, field)``, the records beside them.
    image, step
        ``(question,)``, the image that each question is about, and the number of the question about it.
    choose
        A function from logits ``(question, class[, *grid])`` to what is explained.
    chosen
        What is explained, where it is known before the network answers.
    plain
        The answers about the images as they are: only windows that differ are asked about.
    keep_windows
        Whether the logits of windows are wanted themselves.
    """

    inputs: Tensor
    record: Tensor
    image: Tensor
    step: Tensor
    needs: Needs
    ask: Ask
    choose: Callable[[Tensor], Chosen]
    chosen: Chosen | None = None
    plain: Plain | None = None
    keep_windows: bool = False


@dataclass(frozen=True, eq=False)
class Reply:
    """The answers to what was asked, one for each target, and the passes that it took.

    Attributes
    ----------
    logits
        ``(question, class[, *grid])``.
    windows
        ``(question * window, class[, *window])``; None where they were not kept.
    """

    logits: Tensor
    chosen: Chosen
    answers: list[Answer]
    windows: Tensor | None
    forward_passes: int
    backward_passes: int


def put(network: Network, asked: Asked, limit: int) -> Reply:
    """Ask the network, about `limit` windows at once.

    Raises
    ------
    ConfigurationError
        If no gradient comes back to what is explained, or a layer has no row for each window.
    """
    if asked.needs.rules and network.precision == "bf16":
        return _put_twice(network, asked, limit)
    while True:
        asking = _Asking(network, asked, limit)
        try:
            return asking.reply()
        except _NotLinear as error:
            for layer in error.layers:
                network.without_linear_head(layer)


def _put_twice(network: Network, asked: Asked, limit: int) -> Reply:
    """Ask again in fp32 by other backward rules, which count on differences that bf16 would round away."""
    needs = replace(asked.needs, rules=frozenset())
    rounded = put(network, replace(asked, needs=needs), limit)
    again = replace(asked, needs=Needs(rules=asked.needs.rules), choose=lambda _: rounded.chosen, chosen=rounded.chosen)
    with network.exact():
        exact = put(network, again, limit)
    pairs = zip(rounded.answers, exact.answers, strict=True)
    return replace(
        rounded,
        answers=[replace(answer, by_rule=by_rules.by_rule) for answer, by_rules in pairs],
        forward_passes=rounded.forward_passes + exact.forward_passes,
        backward_passes=rounded.backward_passes + exact.backward_passes,
    )


class _NotLinear(Exception):
    """The logits of these images are not linear in the mean over space of some layers after all."""

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__(*layers)
        self.layers = layers


@dataclass(frozen=True, eq=False)
class _Run:
    """One forward pass about some windows.

    Attributes
    ----------
    numbers
        ``(window,)``, question by question: ``question * count + window``.
    relus
        The ReLUs on the way, which say by which rule it is walked back.
    """

    numbers: Tensor
    inputs: Tensor
    record: Tensor
    logits: Tensor
    activations: dict[str, Tensor]
    relus: Relus


_Part = Looking | BackwardRule | Literal["gradient"]
"""The parts of an answer that are put together of those of windows."""


class _Asking:
    """The state of what is put together until all of its windows are answered."""

    def __init__(self, network: Network, asked: Asked, limit: int) -> None:
        self.network, self.asked, self.limit = network, asked, limit
        self.tiles, self.needs = network.tiles, asked.needs
        self.padded = self.tiles.pad(asked.inputs)
        self.merging: Merging = merging(network, asked.image, asked.plain, asked.keep_windows)
        self.forward_passes = self.backward_passes = 0
        self.by_gradient = [one for one in self.needs.maps if one.requires >= GRADIENT]
        self.layers = sorted({layer for one in self.by_gradient for layer in one.watched(network)})
        self.watched = self.needs.activations.union(*(one.watched(network) for one in self.needs.maps))
        self.heads = self._closed_heads()
        self.activations: dict[str, Tensor] = {}
        self.found: dict[tuple[int | None, _Part], Tensor] = {}
        self.of_record: dict[int, Tensor] = {}

    def _closed_heads(self) -> list[Head]:
        """Find the linear heads by which gradients are known without a pass back; none, if any layer has no such."""
        if self.asked.ask is not plainly or self.needs.input_gradient:
            return []
        heads = [self.network.linear_head(layer) for layer in self.layers]
        return [head for head in heads if head is not None] if all(heads) else []

    def reply(self) -> Reply:
        chosen, logits = self._ask_all(), self.merging.whole
        answers = self._answers(logits, chosen)
        return Reply(logits, chosen, answers, self.merging.windows, self.forward_passes, self.backward_passes)

    def _ask_all(self) -> Chosen:
        """Ask about all windows, those that matter twice if their part in the score is not known beforehand."""
        needs, known = self.needs, self.asked.chosen if self.merging.is_linear else None
        pieces = self._pieces(self._numbers())
        is_one, looks = len(pieces) == 1, bool(needs.gradients or self.watched)
        at_once = not is_one and (known is not None or not needs.gradients)
        graph = bool(needs.rules) or (needs.gradients and not self.heads)
        for piece in pieces:
            run = self._run(piece, graph and (is_one or at_once))
            self.merging.add(piece, run.logits.detach())
            if at_once and looks:
                self._take(run, known)
        chosen = self.asked.choose(self.merging.whole)
        if is_one and looks:
            self._take(run, chosen)
        elif looks and not at_once:
            for piece in self._pieces(self._that_matter(chosen)):
                self._take(self._run(piece, graph), chosen)
        return chosen

    def _numbers(self) -> Tensor:
        """Number the windows that are asked about, ``question * count + window``."""
        inputs, plain = self.asked.inputs, self.asked.plain
        numbers = torch.arange(len(inputs) * self.tiles.count, device=inputs.device)
        if plain is None:
            return numbers
        return numbers[self.tiles.touched(self.padded, self.tiles.pad(plain.images[self.asked.image]))]

    def _that_matter(self, chosen: Chosen) -> Tensor:
        """Number the windows that any map needs; one that is made of gradients is zero where these are."""
        numbers = self._numbers()
        return numbers[self.merging.matter(chosen)] if len(self.by_gradient) == len(self.needs.maps) else numbers

    def _pieces(self, numbers: Tensor) -> list[Tensor]:
        pieces = [numbers] if self.tiles.is_whole else numbers.split(self.limit)
        return [piece for piece in pieces if len(piece)]

    def _run(self, numbers: Tensor, graph: bool) -> _Run:
        asked, network = self.asked, self.network
        question = numbers // self.tiles.count
        to_input, by_rules = graph and self.needs.input_gradient, graph and bool(self.needs.rules)
        inputs = network.prepare(self.tiles.cut(self.padded, numbers)).requires_grad_(to_input or by_rules)
        record = asked.record[question].detach().requires_grad_(to_input)
        # Another backward rule counts on differences that bf16 would round away.
        precision = nullcontext() if asked.ask is plainly else network.exact()
        relus = Relus()
        with (
            precision,
            relus if by_rules else nullcontext(),
            torch.set_grad_enabled(graph),
            network.watch(self.watched) as activations,
            network.beside(record),
        ):
            logits = self._ask_of(numbers)(network, inputs, asked.image[question], asked.step[question])
        for layer, activation in activations.items():
            if len(activation) != len(inputs):
                raise ConfigurationError(
                    f"layer {layer!r} has {len(activation)} rows for {len(inputs)} images: name one with a row for "
                    "each image"
                )
        self.forward_passes += len(inputs)
        run = _Run(numbers, inputs, record, logits, dict(activations), relus)
        self._check_heads(run)
        return run

    def _ask_of(self, numbers: Tensor) -> Ask:
        """Let a way to ask that holds images take their windows."""
        tiles, ask = self.tiles, self.asked.ask
        if tiles.is_whole or not isinstance(ask, Within):
            return ask
        return ask.within(lambda index, images: tiles.cut(tiles.pad(images), numbers[index : index + 1] % tiles.count))

    def _check_heads(self, run: _Run) -> None:
        """Raise if a head does not explain the logits of these windows; bf16 rounds too much away to tell."""
        if not self.heads or self.network.precision == "bf16":
            return
        pairs = zip(self.layers, self.heads, strict=True)
        logits = run.logits.detach()
        if wrong := [layer for layer, head in pairs if not head.explains(run.activations[layer].detach(), logits)]:
            raise _NotLinear(wrong)

    def _take(self, run: _Run, chosen: Chosen | None) -> None:
        """Take the parts of an answer beside the logits from a pass about some windows."""
        activations = {name: _full(activation.detach()) for name, activation in run.activations.items()}
        self.activations = {name: activations[name] for name in self.needs.activations}
        seen = Seen(run.inputs.detach(), activations)
        for one in self.needs.maps.difference(self.by_gradient):
            self._add_map(run, (None, one), one.look(seen, self.network))
        if chosen is None or not self.needs.gradients:
            return
        rules = list(self.needs.rules)
        for target, gradients in enumerate(self._gradients(run, chosen, again=bool(rules))):
            if self.needs.input_gradient:
                self._add_record(run, target, gradients.pop())
                self._add(run, (target, "gradient"), gradients.pop())
            seen = Seen(seen.inputs, activations, dict(zip(self.layers, map(_full, gradients), strict=True)))
            for one in self.by_gradient:
                self._add_map(run, (target, one), one.look(seen, self.network))
        while rules:
            rule = run.relus.rule = rules.pop()
            for target, (gradient,) in enumerate(self._walked_back(run, chosen, [run.inputs], again=bool(rules))):
                self._add(run, (target, rule), gradient)

    def _gradients(self, run: _Run, chosen: Chosen, again: bool) -> Iterator[list[Tensor]]:
        """Yield for each target the gradients of the score with respect to layers, then inputs and records."""
        wanted = [run.activations[layer] for layer in self.layers]
        wanted += [run.inputs, run.record] * self.needs.input_gradient
        if self.heads:
            logits = run.logits.detach().requires_grad_()
            for score in self._scores(run, chosen, logits):
                (factors,) = torch.autograd.grad(score, logits, retain_graph=True)
                yield [_through(head, part, factors) for head, part in zip(self.heads, wanted, strict=True)]
        elif wanted:
            yield from self._walked_back(run, chosen, wanted, again)

    def _walked_back(self, run: _Run, chosen: Chosen, wanted: list[Tensor], again: bool) -> Iterator[list[Tensor]]:
        """Yield for each target the gradients of the score; the graph is kept if it is walked back `again`."""
        scores = self._scores(run, chosen, run.logits)
        self.backward_passes += len(run.inputs) * len(scores)
        for target, score in enumerate(scores):
            if (chosen.classes[:, target] != NO_CLASS).any():
                retain = again or target + 1 < len(scores)
                found = torch.autograd.grad(score, wanted, retain_graph=retain, allow_unused=True)
                pairs = list(zip(found, wanted, strict=True))
                if any(gradient is None and part is not run.record for gradient, part in pairs):
                    raise ConfigurationError(no_gradient(self.network.name))
                yield [torch.zeros_like(part) if gradient is None else gradient for gradient, part in pairs]
            else:
                yield [torch.zeros_like(part) for part in wanted]

    def _scores(self, run: _Run, chosen: Chosen, logits: Tensor) -> tuple[Tensor, ...]:
        """Sum what is explained of each target over windows."""
        with torch.enable_grad():
            # Images do not mix in evaluation mode, so the gradient of the sum holds each image's own.
            scores = self.merging.shares(run.numbers, chosen, logits).sum(0).unbind()
        if not scores[0].requires_grad:
            raise ConfigurationError(no_gradient(self.network.name))
        return scores

    def _add_record(self, run: _Run, target: int, gradient: Tensor) -> None:
        total = self.of_record.setdefault(target, torch.zeros_like(self.asked.record))
        total.index_add_(0, run.numbers // self.tiles.count, gradient)

    def _add_map(self, run: _Run, key: tuple[int | None, Looking], maps: Tensor) -> None:
        maps = maps[:, None]
        self._add(run, key, maps if self.tiles.is_whole else maps * self.tiles.factors(maps, run.numbers))

    def _add(self, run: _Run, key: tuple[int | None, _Part], values: Tensor) -> None:
        if self.tiles.is_whole:
            self.found[key] = values
            return
        if key not in self.found:
            self.found[key] = values.new_zeros(len(self.asked.inputs), values.shape[1], *self.tiles.padded)
        self.tiles.add(self.found[key], run.numbers, values)

    def _added(self, key: tuple[int | None, _Part], channels: int) -> Tensor:
        inputs = self.asked.inputs
        if key not in self.found:  # no window matters
            return inputs.new_zeros(len(inputs), channels, *inputs.shape[2:])
        return self.tiles.crop(self.found[key])

    def _answers(self, logits: Tensor, chosen: Chosen) -> list[Answer]:
        asked, needs = self.asked, self.needs
        outputs, scores = self.network.probability(logits), chosen.score(logits)
        probability, decided = chosen.mean(outputs), chosen.decided(outputs, self.network.config.activation)
        return [
            Answer(
                inputs=asked.inputs,
                record=asked.record,
                score=scores[:, target],
                probability=probability[:, target],
                decided=decided[:, target],
                image=asked.image,
                step=asked.step,
                target=target,
                input_gradient=self._added((target, "gradient"), asked.inputs.shape[1])
                if needs.input_gradient
                else None,
                record_gradient=self.of_record.get(target, torch.zeros_like(asked.record))
                if needs.input_gradient
                else None,
                activations=self.activations,
                maps={
                    one: self._added((target if one in self.by_gradient else None, one), 1)[:, 0] for one in needs.maps
                },
                by_rule={rule: self._added((target, rule), asked.inputs.shape[1]) for rule in needs.rules},
            )
            for target in range(scores.shape[1])
        ]


def _through(head: Head, layer: Tensor, factors: Tensor) -> Tensor:
    """Compute the gradient with respect to `layer` of a score that is linear in its mean over space, without a pass.

    `factors` ``(window, class)`` says by how much each logit counts in the score.
    """
    weights = factors @ head.weight / layer[0, 0].numel()
    return weights.view(*weights.shape, *[1] * (layer.ndim - 2)).expand_as(layer)


def _full(values: Tensor) -> Tensor:
    """Take values that bf16 computed to float32."""
    return values.float() if values.dtype == torch.bfloat16 else values
