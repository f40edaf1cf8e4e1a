"""The page of the evidence: tables of what the runs of `tests.benchmarks.evidence` stored."""

from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks import manifest
from tasks.plan import Plan
from tasks.report.performance import performance
from tasks.report.trust import Family, evidence_table, families, suspicion
from tasks.storage import Location
from tasks.store import EXPLAINED, open_store

_ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}


class Run:
    """What one run stored: how right its network is, and the evidence table."""

    def __init__(self, output: Location) -> None:
        self.plan = Plan.read(output)
        whole = open_store(output)
        rows = np.flatnonzero(whole["status"].values == EXPLAINED)
        self.dataset = whole.isel(image_id=rows)
        entries = manifest.read(output)
        subjects = [entries[row].subject or entries[row].id for row in rows]
        labels = [str(label) for label in self.dataset["label"].values]
        self.images = len(rows)
        self.right = performance(
            self.dataset["probability"].values, labels, subjects, self.plan.model.classes, exclusive=True
        )
        self.table = evidence_table(self.dataset, subjects)

    @property
    def suspicion(self) -> str:
        """What the report of this run says."""
        assert self.table is not None and self.right is not None
        return suspicion(self.table, self.right.classes[1].auc.value)

    def families(self) -> dict[str, str]:
        """A table a family, as Markdown."""
        assert self.table is not None
        return {family.name: _markdown(family) for family in families(self.table, self.dataset)}

    def mean(self, metric: str, explainer: str) -> float:
        assert self.table is not None
        return float(self.table.loc[("all", metric, explainer), "mean"])

    def above(self, metric: str, control: str = "control_random") -> list[str]:
        """The explainers that are better than a control, and differ from all, the best first."""
        assert self.table is not None
        rows: pd.DataFrame = self.table.loc["all"].loc[metric]
        sign = -1 if self.dataset[f"metric_{metric}"].attrs["better"] == "lower" else 1
        better = rows[rows["differs"] & (sign * rows[f"minus_{control}"] > 0)]
        return [str(name) for name in better.index[np.argsort(-sign * better["mean"])]]

    def told(self) -> list[str]:
        return [name for name in self.plan.maps if not name.startswith("control_")]


def write_page(folder: Path, page: Path) -> None:
    names = ("reference", "marker", "shuffled", "every-metric")
    runs = {name.replace("-", "_"): Run(Location(url=str(folder / name))) for name in names}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.write_text(environment.get_template("evidence.md.j2").render(**runs))


def _markdown(family: Family) -> str:
    lines = [
        ["explainer", *(f"{column.name}{_ARROWS[column.better]}" for column in family.columns)],
        ["---", *("---:" for _ in family.columns)],
        *([f"`{name}`", *(f"{cell}{' ≈' if cell.is_chance else ''}" for cell in cells)] for name, cells in family.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
