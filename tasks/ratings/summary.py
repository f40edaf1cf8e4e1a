"""The ratings of an output, folded in: agreement, preference between explainers, and metrics against drawn regions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.ratings.agreement import cohen_kappa, fleiss_kappa, gwet_ac1
from tasks.ratings.preference import Preferred, preferences
from tasks.ratings.rating import FOLDER, VERDICTS, Rating, Verdict
from tasks.ratings.reading import Apart, read_ratings
from tasks.ratings.regions import AgainstRegions, against_regions, summed_up
from tasks.ratings.statistics import Estimate, mean_over_patients
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.tables import as_csv

SUMMARY, TABLE, REGIONS = f"{FOLDER}/summary.json", f"{FOLDER}/ratings.csv", f"{FOLDER}/regions.csv"

Question = Literal["prediction", "explanation"]
QUESTIONS: tuple[Question, ...] = ("prediction", "explanation")


class PairOfRaters(BaseModel):
    """Cohen's kappa of two raters, over the cases that both have rated."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    cases: int
    kappa: Estimate


class Answers(BaseModel):
    """The answers of raters to one question: whether they agree with the model, and with each other.

    Attributes
    ----------
    counts
        Ratings by verdict.
    agree
        Share of the ratings that agree with the model; `unsure` is among the others.
    cases
        How many images, each with its target, two raters or more have answered for.
    fleiss_kappa, ac1
        Agreement between raters over all verdicts; None without such a case.
    """

    model_config = ConfigDict(frozen=True)

    question: Question
    counts: dict[Verdict, int]
    agree: Estimate
    cases: int
    fleiss_kappa: Estimate
    ac1: Estimate
    pairs: tuple[PairOfRaters, ...]


class Summary(BaseModel):
    """The ratings of an output, summed up.

    Attributes
    ----------
    plan_digest
        Of the plan that the output had then.
    raters
        By rater, how many ratings count.
    apart
        Ratings that do not count, and why.
    """

    model_config = ConfigDict(frozen=True)

    plan_digest: str
    ratings: int
    images: int
    raters: dict[str, int]
    answers: tuple[Answers, ...]
    preferences: tuple[Preferred, ...]
    regions: tuple[AgainstRegions, ...]
    apart: tuple[Apart, ...]

    @classmethod
    def read(cls, output: Location) -> "Summary | None":
        """Read what was written last; None if there is nothing, or not of this version."""
        try:
            return cls.model_validate_json((output / SUMMARY).read())
        except (FileNotFoundError, ValidationError):
            return None


def fold_in(output: Location) -> Summary:
    """Sum the ratings up, and write ``summary.json``, ``ratings.csv`` and ``regions.csv`` beside them.

    The arrays of the store are read alone.

    Raises
    ------
    FileNotFoundError
        If there is no run at `output`.
    """
    plan, entries = Plan.read(output), manifest.read(output, sources=False)
    ratings, apart = read_ratings(output, plan, entries)
    patients = {entry.id: entry.subject or entry.id for entry in entries}
    regions = against_regions(open_store(output), plan, ratings)
    summary = Summary(
        plan_digest=plan.digest,
        ratings=len(ratings),
        images=len({rating.image_id for rating in ratings}),
        raters=dict(sorted(Counter(rating.rater for rating in ratings).items())),
        answers=tuple(_answers(question, ratings, patients) for question in QUESTIONS),
        preferences=preferences(ratings, plan.maps, patients),
        regions=summed_up(regions, patients),
        apart=tuple(apart),
    )
    forget(output)
    if ratings or apart:
        (output / SUMMARY).write(summary.model_dump_json(indent=1).encode())
    if ratings:
        (output / TABLE).write(as_csv(_table(ratings)))
    if len(regions):
        (output / REGIONS).write(as_csv(regions.set_index("image_id")))
    return summary


def forget(output: Location) -> None:
    """Delete what `fold_in` has written."""
    for name in (SUMMARY, TABLE, REGIONS):
        (output / name).remove()


def _answers(question: Question, ratings: Sequence[Rating], patients: Mapping[str, str]) -> Answers:
    given = [rating for rating in ratings if getattr(rating, question)]
    verdicts: list[Verdict] = [getattr(rating, question) for rating in given]
    cases = {case: row for row, case in enumerate(sorted({_case(rating) for rating in given}))}
    counts = np.zeros((len(cases), len(VERDICTS)), int)
    for rating, verdict in zip(given, verdicts, strict=True):
        counts[cases[_case(rating)], VERDICTS.index(verdict)] += 1
    of_cases = [patients[image_id] for image_id, _ in cases]
    return Answers(
        question=question,
        counts={verdict: verdicts.count(verdict) for verdict in VERDICTS},
        agree=mean_over_patients(
            [verdict == "agree" for verdict in verdicts], [patients[rating.image_id] for rating in given]
        ),
        cases=int((counts.sum(1) > 1).sum()),
        fleiss_kappa=fleiss_kappa(counts, of_cases),
        ac1=gwet_ac1(counts, of_cases),
        pairs=tuple(_pairs(given, verdicts)),
    )


def _pairs(given: Sequence[Rating], verdicts: Sequence[Verdict]) -> list[PairOfRaters]:
    said: dict[str, dict[tuple[str, str], Verdict]] = {}
    for rating, verdict in zip(given, verdicts, strict=True):
        said.setdefault(rating.rater, {})[_case(rating)] = verdict
    found = []
    for first, second in combinations(sorted(said), 2):
        both = sorted(said[first].keys() & said[second].keys())
        if both:
            kappa = cohen_kappa([said[first][case] for case in both], [said[second][case] for case in both])
            found.append(PairOfRaters(first=first, second=second, cases=len(both), kappa=kappa))
    return found


def _case(rating: Rating) -> tuple[str, str]:
    return rating.image_id, rating.target or ""


def _table(ratings: Sequence[Rating]) -> pd.DataFrame:
    """One row a rating that counts."""
    rows = [
        {
            "image_id": rating.image_id,
            "target": rating.target or "",
            "rater": rating.rater,
            "time": rating.time.isoformat(),
            "prediction": rating.prediction or "",
            "explanation": rating.explanation or "",
            "shown": ", ".join(rating.shown),
            "helps": ", ".join(rating.helps or ()),
            "region": None if rating.region is None else int(rating.region.mask.sum()),
            "confidence": rating.confidence,
            "comment": rating.comment,
            "id": rating.id,
        }
        for rating in ratings
    ]
    return pd.DataFrame(rows).astype({"region": "Int64", "confidence": float}).set_index("image_id")
