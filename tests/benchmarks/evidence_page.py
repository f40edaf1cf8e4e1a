"""The page of the evidence: tables and words made of what the runs of `tests.benchmarks.evidence` stored."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.report.evidence import Family, evidence_table, families, suspicion
from tasks.report.performance import performance
from tasks.storage.location import Location
from tasks.store.template import EXPLAINED, open_store

RUNS = ("reference", "marker", "shuffled")
_ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}
_CORNER = 16
_AROUND = 4.0


class Run:
    """What one run stored: how right its network is, and the evidence table."""

    def __init__(self, output: Location) -> None:
        plan, whole, entries = Plan.read(output), open_store(output), manifest.read(output)
        rows = np.flatnonzero(whole["status"].values == EXPLAINED)
        subjects = [entries[row].subject or entries[row].id for row in rows]
        self.dataset = whole.isel(image_id=rows)
        self.images = len(rows)
        labels = [str(label) for label in self.dataset["label"].values]
        right = performance(self.dataset["probability"].values, labels, subjects, plan.model.classes, exclusive=True)
        table = evidence_table(self.dataset, subjects)
        assert right is not None and right.accuracy is not None and table is not None
        self.accuracy, self.auc = right.accuracy, right.classes[1].auc
        self.controls = [name for name in plan.maps if name.startswith("control_")]
        self.told = [name for name in plan.maps if name not in self.controls]
        self.suspicion = suspicion(table, self.auc.value)
        self.families = {family.name: family for family in families(table, self.dataset)}
        self.table: pd.DataFrame = table.loc["all"]

    def better(self, metric: str) -> list[str]:
        """The explainers that are better than every control, the best first."""
        sign = -1 if self.dataset[f"metric_{metric}"].attrs["better"] == "lower" else 1
        rows = self.table.loc[metric]
        ahead = np.all([sign * rows[f"minus_{control}"] > 0 for control in self.controls], axis=0)
        found = (sign * rows["mean"])[rows["differs"] & ahead].sort_values(ascending=False)
        return [str(name) for name in found.index]

    def mean(self, metric: str, explainer: str) -> float:
        return float(self.table.loc[(metric, explainer), "mean"])

    def noise(self, metric: str) -> float:
        """What pairs of maps of noise reach."""
        return float(self.dataset[f"metric_{metric}_random_ssim"].mean())

    def like_noise(self, metric: str) -> list[str]:
        """The explainers whose interval reaches down to what pairs of maps of noise reach."""
        lows = self.table.loc[metric]["low"]
        return [name for name in self.told if lows[name] <= self.noise(metric)]

    def median(self, metric: str) -> float:
        """Of the explainers' means, as far as they have one."""
        return float(np.nanmedian([self.mean(metric, name) for name in self.told]))

    def above(self, share: float) -> list[str]:
        """The explainers that have a larger share of the positive evidence inside the lesion."""
        return [name for name in self.told if self.mean("relevance_mass", name) > share]

    @property
    def in_the_picture(self) -> tuple[float, float]:
        """Share inside the lesion of what is brighter than the image's mean, and of what is brighter than around it."""
        marked = np.flatnonzero(self.dataset["label"].values == "lesion")
        images = self.dataset["image"].isel(image_id=marked).squeeze("channel").values.astype(np.float64)
        masks = self.dataset["mask"].isel(image_id=marked).values == 1

        def share(brighter: NDArray[np.float64]) -> float:
            positive = np.clip(brighter, 0, None)
            return float(np.mean((positive * masks).sum((1, 2)) / positive.sum((1, 2))))

        around = gaussian_filter(images, _AROUND, axes=(1, 2))
        return share(images - images.mean((1, 2), keepdims=True)), share(images - around)

    @property
    def in_the_corner(self) -> float:
        """Share of the positive evidence in the corner of the marker, as the median over explainers, where there is a
        lesion.
        """
        marked = np.flatnonzero(self.dataset["label"].values == "lesion")
        maps = self.dataset["attribution"].isel(image_id=marked, target=0).sel(explainer=self.told).values
        evidence = np.clip(maps, 0, None)
        total, corner = (part.sum((2, 3)) for part in (evidence, evidence[..., :_CORNER, :_CORNER]))
        share = np.divide(corner, total, out=np.full(total.shape, np.nan), where=total > 0)
        return float(np.nanmedian(pd.DataFrame(share).mean()))


def write_page(folder: Path, page: Path, weights: Path, *, every: bool) -> None:
    """Make the page of the runs in `folder`.

    Parameters
    ----------
    weights
        Folder of the networks' recipes.
    every
        Whether every metric was computed for every explainer.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "names": _names, "table": _markdown}
    recipe = json.loads((weights / "attention_gated_2d_shuffled.json").read_text())
    runs = {name: Run(Location(url=str(folder / name))) for name in RUNS}
    whole = Run(Location(url=str(folder / "every-metric"))) if every else None
    page.write_text(environment.get_template("evidence.md.j2").render(**runs, every=whole, recipe=recipe))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _names(explainers: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in explainers) or "none"


def _markdown(family: Family) -> str:
    lines = [
        ["explainer", *(f"{column.name}{_ARROWS[column.better]}" for column in family.columns)],
        ["---", *("---:" for _ in family.columns)],
        *([f"`{name}`", *(f"{cell}{' ≈' if cell.is_chance else ''}" for cell in cells)] for name, cells in family.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
