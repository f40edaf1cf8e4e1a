"""The prediction of a case, and how certain it is."""

from collections.abc import Iterator, Mapping
from functools import partial

from models.outputs import Output
from models.phrases import listed, percent
from models.prediction import LOGIT, PROBABILITY
from models.results.sentences.base import TOLD, Case, Sentence, known


def prediction(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says the prediction."""
    yield Sentence((LOGIT, PROBABILITY), _probable) if PROBABILITY in outputs else Sentence((LOGIT,), _values)


def certainty(outputs: Mapping[str, Output]) -> Iterator[Sentence]:
    """Find what says, for each kind of uncertainty, how far its members differ."""
    always = tuple(name for name in (LOGIT, PROBABILITY) if name in outputs)
    for output in outputs.values():
        if output.kind == "uncertainty" and output.name.endswith("_outputs"):
            stem, members = output.name.removesuffix("_outputs"), str(output.attrs["members"])
            yield Sentence((*always, output.name), partial(_deviation, name=output.name, members=members))
            entropy = (f"{stem}_entropy", f"{stem}_mutual_information")
            yield Sentence(entropy, partial(_entropy, names=entropy, members=members))


def _probable(case: Case) -> Iterator[str]:
    probability, classes, order = case[PROBABILITY], case.frame.classes, case.foremost
    if not known(probability):
        return
    said = [f"{classes[index]} with a probability of {percent(probability[index])}" for index in order]
    called = len(case.called)
    if case.frame.segments:
        means = [f"{classes[index]} {percent(probability[index])}" for index in order[:TOLD]]
        yield f"On average over the image, the network gives these probabilities: {listed(means)}."
    elif case.frame.activation == "softmax":
        yield f"The network predicts {said[0]}."
    elif not called:
        yield f"The network predicts none of its classes; it takes {said[0]} for the likeliest."
    else:
        more = f", the likeliest of {called} predicted classes" if called > TOLD else ""
        yield f"The network predicts {listed(said[: min(called, TOLD)])}{more}."


def _values(case: Case) -> Iterator[str]:
    values, names = case[LOGIT], case.frame.classes
    if not known(values):
        return
    said = listed([f"{values[index]:.4g} for {names[index]}" for index in case.foremost[:TOLD]])
    more = f", the first of {len(names)} values" if len(names) > TOLD else ""
    yield f"The network predicts {said}{more}."


def _deviation(case: Case, name: str, members: str) -> Iterator[str]:
    first = case.foremost[0]
    deviation, of = float(case[name][first]), case.frame.classes[first]
    if not known(deviation):
        return
    is_regression = case.frame.activation == "identity"
    what, much = ("value", f"{deviation:.2g}") if is_regression else ("probability", percent(deviation))
    yield f"Between {members}, the {what} of {of} has a standard deviation of {much}."


def _entropy(case: Case, names: tuple[str, str], members: str) -> Iterator[str]:
    entropy, shared = (float(case[name]) for name in names)
    if known(entropy, shared):
        yield (
            f"The mean prediction of {members} has an entropy of {entropy:.2f} bit, of which {shared:.2f} bit is due "
            "to their differences."
        )
