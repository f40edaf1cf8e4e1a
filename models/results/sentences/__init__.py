"""Sentences about a case, by subject. To add one: write the function that finds it, and name it here, in its place."""

from collections.abc import Iterator, Mapping

from models.outputs import Output
from models.results.sentences import doubt
from models.results.sentences.base import Case, Sentence, Subject
from models.results.sentences.concepts import concepts
from models.results.sentences.counterfactuals import counterfactuals
from models.results.sentences.measures import measures
from models.results.sentences.neighbours import neighbours, other_neighbours, standing
from models.results.sentences.places import mask, regions
from models.results.sentences.prediction import certainty, prediction

SUBJECTS: tuple[Subject, ...] = (
    prediction,
    certainty,
    regions,
    mask,
    concepts,
    measures,
    counterfactuals,
    neighbours,
    standing,
    doubt.label,
    other_neighbours,
    doubt.agreement,
    doubt.criticism,
    doubt.shortcut,
    doubt.flags,
)


def find(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find the sentences that the outputs of a store have the numbers for, in the order in which they are said.

    Several of a subject follow the names of the outputs, whose order in a store is that in which they were added.
    """
    by_name = dict(sorted(outputs.items()))
    for subject in SUBJECTS:
        yield from (one for one in subject(by_name) if set(one.reads) <= outputs.keys())


__all__ = ["SUBJECTS", "Case", "Sentence", "Subject", "find"]
