"""The engine: puts the questions of all explainers together, asks each once, and keeps every batch full.

An explanation is a reduction over questions put to the model. The plain question, the image as it is, comes first
and serves prediction and every explainer that needs no other. Then each explainer yields its questions; all that are
asked in the same way are dealt out in full batches, whatever image or explainer they come from, and the answers are
folded as they come: memory depends on the batch, never on the number of questions.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from operator import or_

import torch
from torch import Tensor

from models.explainers import Explainer
from models.explainers.base import Answer, Case, Needs, Questions, Rule
from models.network import Network
from models.targets import Classes, Predicted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Explanation:
    """The maps and predictions of some images.

    Attributes
    ----------
    logits, probability
        ``(image, class)``.
    target_class
        ``(image, target)`` class indices.
    maps
        ``(image, target, explainer, *space)``, signed and unnormalised.
    """

    logits: Tensor
    probability: Tensor
    target_class: Tensor
    maps: Tensor


class Engine:
    """Explains images by several explainers together.

    Attributes
    ----------
    forward_passes, backward_passes
        Questions answered so far, and gradients taken of them.

    Raises
    ------
    ValueError
        If an explainer cannot be right on the network, or the target names what it does not have.
    """

    def __init__(
        self,
        network: Network,
        explainers: Sequence[Explainer],
        target: Predicted | Classes,
        batch_size: int = 16,
    ) -> None:
        target.check(network.config.classes)
        self.network = network
        self.target = target
        self.batch_size = batch_size
        self.forward_passes = self.backward_passes = 0
        self.explainers = [explainer for explainer in explainers if explainer.makes_map]
        self.needs = reduce(or_, (explainer.needs(network) for explainer in self.explainers), Needs())

    def explain(self, images: Tensor, ids: Sequence[str]) -> Explanation:
        """Explain ``(image, channel, *space)``, on the CPU or the network's device; `ids` name the images."""
        images = self.network.prepare(images)
        logits, case = self._plain(images, tuple(ids))
        running = dict(enumerate(explainer.explain(case) for explainer in self.explainers))
        maps: dict[int, Tensor] = {}
        with torch.no_grad():
            while running:
                asked = []
                for index, explaining in list(running.items()):
                    try:
                        asked.append(next(explaining))
                    except StopIteration as finished:
                        maps[index] = finished.value
                        del running[index]
                self._ask(case, asked)
        stacked = torch.stack([maps[index] for index in sorted(maps)]) if maps else case.zeros()[None][:0]
        probability = self.network.probability(logits)
        return Explanation(logits, probability, case.target_class, stacked.permute(2, 1, 0, *range(3, stacked.ndim)))

    def _plain(self, images: Tensor, ids: tuple[str, ...]) -> tuple[Tensor, Case]:
        logits: list[Tensor] = []
        target_class: list[Tensor] = []
        answers: list[list[Answer]] = []

        def put(rows: slice) -> None:
            image = torch.arange(rows.start, rows.stop, device=images.device)
            found = self._put(images[rows], image, torch.zeros_like(image), self.needs, nullcontext, None)
            logits.append(found[0])
            target_class.append(found[1])
            answers.append(found[2])

        self._in_batches(len(images), put)
        joined = tuple(Answer.join(parts) for parts in zip(*answers, strict=True))
        return torch.cat(logits), Case(self.network, images, ids, torch.cat(target_class), joined)

    def _ask(self, case: Case, asked: Sequence[Questions]) -> None:
        for (rule, needs), questions in _ways(asked).items():
            stream = _Stream(questions, len(case.images))

            def put(rows: slice, stream: _Stream = stream, needs: Needs = needs, rule: Rule = rule) -> None:
                parts = list(stream.parts(rows, case.images.device))
                inputs = torch.cat([question.make(image, step) for question, image, step, _ in parts])
                image = torch.cat([image for _, image, _, _ in parts])
                step = torch.cat([step for _, _, step, _ in parts])
                _, _, answers = self._put(inputs, image, step, needs, rule, case.target_class[image])
                for answer in answers:
                    for question, _, _, own in parts:
                        question.fold(answer.rows(own))

            self._in_batches(stream.total, put)

    def _in_batches(self, total: int, put: Callable[[slice], None]) -> None:
        """Call `put` with consecutive rows; memory that does not suffice for a batch halves it."""
        start = 0
        while start < total:
            stop = min(start + self.batch_size, total)
            try:
                put(slice(start, stop))
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                logger.warning("out of memory: batches of %d from now on", self.batch_size)
                torch.cuda.empty_cache()
                continue
            start = stop

    def _put(
        self, inputs: Tensor, image: Tensor, step: Tensor, needs: Needs, rule: Rule, target_class: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Answer]]:
        """Run the network once, and back once a target; without `target_class` the targets are chosen here."""
        inputs = self.network.prepare(inputs).requires_grad_(needs.input_gradient)
        watched = needs.activations | needs.activation_gradients
        with torch.set_grad_enabled(needs.gradients), rule(), self.network.watch(watched) as activations:
            logits: Tensor = self.network.module(inputs)
            detached = logits.detach()
            if target_class is None:
                target_class = self.target.select(detached, self.network.config.classes)
            scores = logits.gather(1, target_class)
            # Images do not mix in evaluation mode, so the gradient of the sum holds each image's own.
            sums = scores.sum(0).unbind()
        probability = self.network.probability(detached).gather(1, target_class)
        self.forward_passes += len(inputs)
        self.backward_passes += len(inputs) * len(sums) * needs.gradients
        layers = sorted(needs.activation_gradients)
        wanted = [activations[layer] for layer in layers] + [inputs] * needs.input_gradient
        answers = []
        for target, total in enumerate(sums):
            gradients: list[Tensor] = []
            if wanted:
                gradients = list(torch.autograd.grad(total, wanted, retain_graph=target + 1 < len(sums)))
            answers.append(
                Answer(
                    inputs=inputs.detach(),
                    score=scores[:, target].detach(),
                    probability=probability[:, target],
                    image=image,
                    step=step,
                    target=target,
                    input_gradient=gradients.pop() if needs.input_gradient else None,
                    activations={name: activation.detach() for name, activation in activations.items()},
                    activation_gradients=dict(zip(layers, gradients, strict=True)),
                )
            )
        return detached, target_class, answers


class _Stream:
    """Questions of several explainers about all images, as one sequence of rows."""

    def __init__(self, questions: Sequence[Questions], images: int) -> None:
        self.questions = questions
        about = (images if question.among is None else len(question.among) for question in questions)
        self.starts = [0, *accumulate(question.count * count for question, count in zip(questions, about, strict=True))]
        self.total = self.starts[-1]

    def parts(self, rows: slice, device: torch.device) -> Iterator[tuple[Questions, Tensor, Tensor, slice]]:
        """For each explainer with questions among `rows`: images, steps, and where in the batch they are."""
        for question, start, stop in zip(self.questions, self.starts, self.starts[1:], strict=False):
            first, last = max(rows.start, start), min(rows.stop, stop)
            if first < last:
                own = torch.arange(first - start, last - start, device=device)
                image = own.div(question.count, rounding_mode="floor")
                image = image if question.among is None else question.among[image]
                yield question, image, own % question.count, slice(first - rows.start, last - rows.start)


def _ways(asked: Sequence[Questions]) -> dict[tuple[Rule, Needs], list[Questions]]:
    """Join equal questions, and put together what is asked in the same way."""
    distinct: dict[Hashable, list[Questions]] = defaultdict(list)
    for questions in asked:
        distinct[object() if questions.key is None else questions.key].append(questions)
    ways: dict[tuple[Rule, Needs], list[Questions]] = defaultdict(list)
    for same in distinct.values():
        needs = reduce(or_, (questions.needs for questions in same))
        ways[same[0].rule, needs].append(replace(same[0], needs=needs, fold=_fold_all(same)))
    return ways


def _fold_all(same: Sequence[Questions]) -> Callable[[Answer], None]:
    def fold(answer: Answer) -> None:
        for questions in same:
            questions.fold(answer)

    return fold
