"""Gradients of a network that is asked by the rules of an explainer."""

from collections.abc import Generator

from torch import Tensor

from models.questions import Answer, Ask, Batch, Needs, Questions
from models.rules.requirements import require_same_scores


def gradients_by_rule(batch: Batch, rule: Ask) -> Generator[Questions, None, Tensor]:
    """Ask about each image once by `rule`; return the gradients ``(target, image, channel, *space)``."""
    found = batch.zeros(batch.images.shape[1])

    def fold(answer: Answer) -> None:
        require_same_scores(batch, answer)
        found[answer.target, answer.image] = answer.gradient

    def make(image: Tensor, step: Tensor) -> Tensor:
        return batch.images[image]

    yield Questions(1, make, fold, Needs(input_gradient=True), rule, key=rule)
    return found
