import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.errors import ConfigurationError
from models.explainers.base import CONTROLS, MAPS
from models.outputs import EXPLAINER, IMAGE_ID, TEXT, Frame, Output
from models.phrases import counted
from models.prediction import LOGIT, TARGET_CLASS
from models.results.base import Arrays, Result, Stored
from models.results.sentences import Case, Sentence, find

logger = logging.getLogger(__name__)

LONGEST = 4096
"""Bytes of a text in UTF-8 at most."""


class Words(Result):
    """Each case in sentences that are made of stored numbers by templates.

    They say the prediction and its uncertainty, regions and mask of the map, concepts, measures, counterfactuals, the
    nearest cases, and reasons for doubt. A sentence is left out where a number is missing that it is made of, and a
    case that was not explained has none. No sentence says why the network predicts what it does.
    """

    name: Literal["words"] = "words"
    explainer: str | None = Field(None, description="Explainer whose maps are told of; none: the first, no control")

    def reads(self) -> tuple[str, ...]:
        return (LOGIT, TARGET_CLASS)

    def also_reads(self, outputs: Mapping[str, Output]) -> tuple[str, ...]:
        return tuple({name: None for sentence in find(outputs) for name in sentence.reads})

    def check(self, outputs: Mapping[str, Output]) -> None:
        super().check(outputs)
        explainers = _explainers(outputs)
        if self.explainer is not None and self.explainer not in explainers:
            raise ConfigurationError(
                f"results: {self.title} tells of maps by {self.explainer!r}, but maps are made by "
                f"{', '.join(explainers) or 'no explainer'}: set `explainer` to one that makes them, or leave it out"
            )

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        return (
            Output(
                name=f"{self.label or 'explanation'}_text",
                dims=(IMAGE_ID,),
                kind="text",
                long_name="the case in sentences that are made of stored numbers; empty where it was not explained",
                dtype="string",
                longest=LONGEST,
            ),
        )

    def compute(self, stored: Stored) -> Arrays:
        sentences = list(find(stored.outputs))
        read = list(dict.fromkeys([*self.reads(), *self.also_reads(stored.outputs)]))
        by_image = [name for name in read if stored.outputs[name].per_image]
        whole = stored.whole(*(name for name in read if name not in by_image))
        told = self.explainer or next((one for one in stored.frame.explainers if not one.startswith(CONTROLS)), None)
        labels = stored.labels
        texts, shortened = np.full(len(labels), "", TEXT), 0
        for rows, block in stored.blocks(*by_image):
            for row in (rows.start + np.flatnonzero(stored.explained[rows])).tolist():
                values: dict[str, NDArray[Any]] = {name: block[name][row - rows.start] for name in by_image}
                said = _said(sentences, Case(row, stored.frame, labels, told, values | whole))
                texts[row] = fitting(said)
                shortened += texts[row] != " ".join(said)
        if shortened:
            logger.warning(
                "result %s: %s would be longer than %d bytes, and end with the number of sentences that were left out",
                self.title, counted(shortened, "text"), LONGEST,
            )  # fmt: skip
        return {self.declare(stored.frame)[0].name: texts}


def _said(sentences: Sequence[Sentence], case: Case) -> list[str]:
    return [said for sentence in sentences for said in sentence.say(case)]


def fitting(said: Sequence[str]) -> str:
    """Join sentences; where they are longer than a text may be, the last are left out, and the text says how many."""
    for kept in range(len(said), -1, -1):
        left = len(said) - kept
        text = " ".join([*said[:kept], *([f"Left out for length: {counted(left, 'sentence')}."] if left else [])])
        if len(text.encode()) <= LONGEST:
            return text
    raise AssertionError("one sentence about length is always short enough")


def _explainers(outputs: Mapping[str, Output]) -> tuple[str, ...]:
    axes = {axis.name: axis.labels for axis in (outputs[MAPS].axes if MAPS in outputs else ())}
    labels = axes.get(EXPLAINER, ())
    return () if isinstance(labels, int) else tuple(map(str, labels))
