"""The engine: puts images to the network once, and gives every explainer what it needs of the answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from models.explainers import Answer, Explainer, Needs
from models.network import Network
from models.targets import Classes, Predicted


@dataclass(frozen=True)
class Explanation:
    """The maps and predictions of a batch.

    Attributes
    ----------
    logits, probability
        ``(batch, class)``.
    target_class
        ``(batch, target)`` class indices.
    maps
        ``(batch, target, explainer, *space)``, signed and unnormalised.
    """

    logits: Tensor
    probability: Tensor
    target_class: Tensor
    maps: Tensor


class Engine:
    """Explains batches with one forward pass, and one backward pass a target, for all explainers together.

    Raises
    ------
    ValueError
        If an explainer cannot be right on the network, or the target names what it does not have.
    """

    def __init__(self, network: Network, explainers: Sequence[Explainer], target: Predicted | Classes) -> None:
        target.check(network.config.classes)
        self.network = network
        self.target = target
        self.explainers = [explainer for explainer in explainers if explainer.makes_map]
        self.needs = reduce(or_, (explainer.needs(network) for explainer in self.explainers), Needs())

    @property
    def backward_passes(self) -> int:
        """Backward passes an image."""
        differentiated = self.needs.input_gradient or self.needs.activation_gradients
        return len(self.target.labels()) if differentiated else 0

    def explain(self, images: Tensor) -> Explanation:
        """Explain ``(batch, channel, *space)``, on the CPU or the network's device."""
        images = images.to(self.network.device)
        maps: list[Tensor] = []
        with torch.set_grad_enabled(self.backward_passes > 0):
            logits, target_class, answers = self._ask(images)
            for answer in answers:
                with torch.no_grad():
                    made = [explainer.attribute(answer, self.network) for explainer in self.explainers]
                maps.append(torch.stack(made, 1) if made else images.new_empty(len(images), 0, *images.shape[2:]))
        return Explanation(logits, self.network.probability(logits), target_class, torch.stack(maps, 1))

    def _ask(self, images: Tensor) -> tuple[Tensor, Tensor, Iterator[Answer]]:
        images = images.detach().requires_grad_(self.needs.input_gradient)
        layers = self.needs.activations | self.needs.activation_gradients
        with self.network.watch(layers) as activations:
            logits: Tensor = self.network.module(images)
        target_class = self.target.select(logits.detach(), self.network.config.classes)
        return logits.detach(), target_class, self._answers(images, activations, logits, target_class)

    def _answers(
        self, images: Tensor, activations: dict[str, Tensor], logits: Tensor, target_class: Tensor
    ) -> Iterator[Answer]:
        layers = sorted(self.needs.activation_gradients)
        wanted = [activations[layer] for layer in layers]
        if self.needs.input_gradient:
            wanted.append(images)
        detached = {name: activation.detach() for name, activation in activations.items()}
        targets = target_class.shape[1]
        for column in range(targets):
            gradients: list[Tensor] = []
            if wanted:
                # Images do not mix in evaluation mode, so the sum's gradient holds each image's own.
                score = logits.gather(1, target_class[:, [column]]).sum()
                gradients = list(torch.autograd.grad(score, wanted, retain_graph=column + 1 < targets))
            yield Answer(
                images=images.detach(),
                input_gradient=gradients.pop() if self.needs.input_gradient else None,
                activations=detached,
                activation_gradients=dict(zip(layers, gradients, strict=True)),
            )
