"""Attribution to the fields of a record, for explainers whose way of explaining an image does not cover them."""

from collections.abc import Generator

import torch
from torch import Tensor

from models.questions import Answer, Batch, Questions


def ablated_fields(batch: Batch) -> Generator[Questions, None, Tensor]:
    """Take each field away by itself, with the image as it is: ``S(x, r) - S(x, r without the field)``.

    Returns
    -------
    Tensor
        ``(target, image, field)``.
    """
    fields = batch.record.shape[1]
    drops = batch.record.new_zeros(len(batch.answers), *batch.record.shape)
    scores = batch.scores

    def make(image: Tensor, step: Tensor) -> Tensor:
        return batch.images[image]

    def make_record(image: Tensor, step: Tensor) -> Tensor:
        away = torch.arange(fields, device=step.device) == step[:, None]
        return batch.record[image].where(~away, batch.reference[image])

    def fold(answer: Answer) -> None:
        drops[answer.target, answer.image, answer.step] = scores[answer.target, answer.image] - answer.score

    if fields:
        yield Questions(fields, make, fold, key="fields", make_record=make_record)
    return drops
