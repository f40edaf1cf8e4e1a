"""Streams: questions of several explainers, equal ones once, and those asked in the same way in one sequence."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import accumulate
from operator import or_

import torch
from torch import Tensor

from models.questions import Answer, Ask, Needs, Questions


class Stream:
    """Questions of several explainers about all images, as one sequence of rows."""

    def __init__(self, questions: Sequence[Questions], images: int) -> None:
        self.questions = questions
        about = (images if question.among is None else len(question.among) for question in questions)
        self.starts = [0, *accumulate(question.count * count for question, count in zip(questions, about, strict=True))]
        self.total = self.starts[-1]

    def parts(self, rows: slice, device: torch.device) -> Iterator[tuple[Questions, Tensor, Tensor, slice]]:
        """Yield questions that are among `rows`, their images, their steps, and their places in the batch."""
        for question, start, stop in zip(self.questions, self.starts, self.starts[1:], strict=False):
            first, last = max(rows.start, start), min(rows.stop, stop)
            if first < last:
                own = torch.arange(first - start, last - start, device=device)
                image = own.div(question.count, rounding_mode="floor")
                image = image if question.among is None else question.among[image]
                yield question, image, own % question.count, slice(first - rows.start, last - rows.start)


def ways(asked: Sequence[Questions]) -> dict[tuple[Ask, Needs], list[Questions]]:
    """Join equal questions, and put those together that are asked in the same way."""
    distinct: dict[Hashable, list[Questions]] = defaultdict(list)
    for questions in asked:
        distinct[object() if questions.key is None else questions.key].append(questions)
    ways: dict[tuple[Ask, Needs], list[Questions]] = defaultdict(list)
    for same in distinct.values():
        needs = reduce(or_, (questions.needs for questions in same))
        ways[same[0].ask, needs].append(replace(same[0], needs=needs, fold=_fold_all(same)))
    return ways


def _fold_all(same: Sequence[Questions]) -> Callable[[Answer], None]:
    def fold(answer: Answer) -> None:
        for questions in same:
            questions.fold(answer)

    return fold
