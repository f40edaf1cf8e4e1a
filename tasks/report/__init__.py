"""The report: one page that needs neither a server nor a network."""

import numpy as np
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from models.targets import NO_CLASS, Predicted
from tasks import manifest
from tasks.finish import summarise
from tasks.flags import raised
from tasks.plan import Plan
from tasks.report.pictures import Panel, Scale, case_panels
from tasks.storage import Location
from tasks.store import EXPLAINED, open_store

NAME = "report/index.html"

_SAMPLE_SEED = 20261123
_CASES = 12
_REASONS_SHOWN = 500
_SCALE_PERCENTILE = 99.5

Choice = tuple[str, str, NDArray[np.intp]]
"""Images that are shown together: a title, how they were chosen, and their rows in the store."""


def write_report(output: Location) -> Location:
    """Write the page of a finished output; return where it is."""
    plan = Plan.read(output)
    dataset = open_store(output)
    entries = manifest.read(output)
    choices = [_sample(dataset), _leading(dataset, plan.model.activation)]
    chosen = dataset.isel(image_id=np.unique(np.concatenate([rows for _, _, rows in choices]))).load()
    scales = _scales(chosen)
    refused = [entry for entry in entries if entry.reason]
    environment = Environment(
        loader=PackageLoader("tasks.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("index.html.j2").render(
        plan=plan,
        summary=summarise(output),
        attributes=dataset.attrs,
        scales=scales,
        galleries=[
            (title, about, [_case(chosen.sel(image_id=id), plan, scales) for id in dataset["image_id"].values[rows]])
            for title, about, rows in choices
        ],
        refused=refused[:_REASONS_SHOWN],
        refused_count=len(refused),
    )
    location = output / NAME
    location.write(page.encode())
    return location


def _sample(dataset: xr.Dataset) -> Choice:
    drawn = np.random.default_rng(_SAMPLE_SEED).permutation(_explained(dataset))[:_CASES]
    return "A random sample", "Drawn with a fixed seed.", np.sort(drawn)


def _leading(dataset: xr.Dataset, activation: str) -> Choice:
    """The least certain images; a regression has no probability to go by."""
    explained = _explained(dataset)
    if "probability" not in dataset:
        return "The first", "The explained images that come first in the cohort.", explained[:_CASES]
    order = np.argsort(-entropy(dataset["probability"].values[explained], activation), kind="stable")
    about = "The explained images whose prediction has the highest entropy."
    return "The most uncertain", about, explained[order[:_CASES]]


def _explained(dataset: xr.Dataset) -> NDArray[np.intp]:
    return np.flatnonzero(dataset["status"].values == EXPLAINED)


def entropy(probability: NDArray[np.floating], activation: str) -> NDArray[np.floating]:
    """Entropy in bits of ``(image, class)``; for sigmoid outputs that of the class that is least certain."""
    terms = -probability * np.log2(np.clip(probability, 1e-12, 1))
    if activation == "softmax":
        return terms.sum(1)
    other = 1 - probability
    return (terms - other * np.log2(np.clip(other, 1e-12, 1))).max(1)


def _scales(chosen: xr.Dataset) -> list[Scale]:
    if "attribution" not in chosen:
        return []
    scales = []
    for name in chosen["explainer"].values:
        maps = chosen["attribution"].sel(explainer=name).values
        maps = maps[np.isfinite(maps)]
        limit = float(np.percentile(np.abs(maps), _SCALE_PERCENTILE)) if maps.size else 0.0
        scales.append(Scale(str(name), limit or 1.0, signed=bool(maps.min(initial=0) < 0)))
    return scales


def _case(image: xr.Dataset, plan: Plan, scales: list[Scale]) -> dict[str, object]:
    flags = raised({"image_flags": image["image_flags"].values[None]})
    return {
        "id": str(image["image_id"].values),
        "label": str(image["label"].values),
        "predictions": _predictions(image),
        "flags": [name for name, on in flags.items() if on],
        "rows": _rows(image, plan, scales),
    }


def _predictions(image: xr.Dataset) -> list[tuple[str, str]]:
    """The likeliest classes, or the values of a regression in their order."""
    classes = image["class"].values
    if "probability" not in image:
        return [(str(name), f"{value:.4g}") for name, value in zip(classes, image["logit"].values, strict=True)]
    probability = image["probability"].values
    return [(str(classes[index]), f"{100 * probability[index]:.1f} %") for index in np.argsort(-probability)[:5]]


def _rows(image: xr.Dataset, plan: Plan, scales: list[Scale]) -> list[tuple[str, list[str], list[Panel]]]:
    """Of each target the image has: what it is, flags of its maps, and pictures; without any, the image alone."""
    rows = []
    for target, index in enumerate(image["target_class"].values):
        if index != NO_CLASS and scales:
            flags = raised({"map_flags": image["map_flags"].values[target]})
            found = [f"{name}: {', '.join(image['explainer'].values[on])}" for name, on in flags.items() if on.any()]
            by_rank = isinstance(plan.target, Predicted)
            title = image["class"].values[index] if by_rank else image["target"].values[target]
            rows.append((f"maps for {title}", found, case_panels(image, target, scales)))
    return rows or [("no maps: the image has no target" if scales else "", [], case_panels(image, None, []))]
