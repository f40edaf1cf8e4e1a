"""Folds of a cross-validation, or networks of an ensemble, as one network whose answer is the mean of theirs."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from models.answers import Activation, Meaning, part_of
from models.composed import Composed
from models.errors import ConfigurationError

Combine = Literal["probabilities", "logits"]


class Folds(Composed):
    """Several networks of the same input and output as one, by the mean of their answers.

    Parameters
    ----------
    folds
        The networks; a layer of the first is ``folds.0.`` and its own name.
    output
        The part of what each returns that counts.
    outputs
        The meaning of the outputs of each, which is that of the mean, too.
    combine
        The mean of what is taken: of probabilities, or of logits. Of a regression both are the mean of the values.

    Raises
    ------
    ConfigurationError
        If the mean is to be of logits, and the networks give probabilities.
    """

    def __init__(
        self,
        folds: Sequence[nn.Module],
        output: str | int | None,
        outputs: Meaning,
        activation: Activation,
        combine: Combine = "probabilities",
    ) -> None:
        super().__init__()
        if (outputs, combine) == ("probabilities", "logits"):
            raise ConfigurationError(
                "model.combine is logits and model.outputs is probabilities: set `combine: probabilities`, whose "
                "logarithm is explained"
            )
        self.folds = nn.ModuleList(folds)
        self.output, self.activation = output, activation
        self.is_of_probabilities = (outputs, combine) == ("logits", "probabilities") and activation != "identity"

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        return tuple(self.folds)

    def title(self, of: str) -> str:
        return f"{len(self.folds)} folds of {of}"

    @property
    def alone(self) -> tuple[Callable[..., Tensor], ...]:
        """The folds' own answers, as functions of images and, if they take them, records."""
        return tuple(
            lambda *inputs, fold=fold: part_of(fold(*inputs), self.output, type(fold).__name__) for fold in self.folds
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        found = [answer(*inputs) for answer in self.alone]
        for number, answer in enumerate(found, 1):
            if answer.shape != found[0].shape:
                raise ConfigurationError(
                    f"model.weights: fold {number} returns {tuple(answer.shape)}, and the first "
                    f"{tuple(found[0].shape)}: folds are networks of the same classes and input"
                )
        answers = torch.stack(found)
        if not self.is_of_probabilities:
            return answers.mean(0)
        return _log_mean(answers.log_softmax(2)) if self.activation == "softmax" else _mean_odds(answers)


def _log_mean(logarithms: Tensor) -> Tensor:
    """Compute the logarithm of the mean over the first axis of what has these logarithms."""
    return logarithms.logsumexp(0) - math.log(len(logarithms))


def _mean_odds(logits: Tensor) -> Tensor:
    """Compute the logit of the mean over the first axis of the probabilities of these logits."""
    return _log_mean(logsigmoid(logits)) - _log_mean(logsigmoid(-logits))
