"""The report: one page that needs neither a server nor a network."""

import numpy as np
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from tasks import manifest
from tasks.finish import summarise
from tasks.plan import Plan
from tasks.report.pictures import Scale, case_panels
from tasks.storage import Location
from tasks.store import EXPLAINED, NO_MASK, open_store

NAME = "report/index.html"

_SAMPLE_SEED = 20261123
_CASES = 12
_REASONS_SHOWN = 500
_SCALE_PERCENTILE = 99.5


def write_report(output: Location) -> Location:
    """Write the page of a finished output; return where it is."""
    plan = Plan.read(output)
    dataset = open_store(output)
    entries = manifest.read(output)
    sample, uncertain = _choose(dataset, plan.model.activation)
    chosen = dataset.isel(image_id=np.unique(np.concatenate([sample, uncertain]))).load()
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
            ("A random sample", "Drawn with a fixed seed.", _cases(chosen, dataset, sample, scales)),
            (
                "The most uncertain",
                "The explained images whose prediction has the highest entropy.",
                _cases(chosen, dataset, uncertain, scales),
            ),
        ],
        refused=refused[:_REASONS_SHOWN],
        refused_count=len(refused),
    )
    location = output / NAME
    location.write(page.encode())
    return location


def _choose(dataset: xr.Dataset, activation: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    explained = np.flatnonzero(dataset["status"].values == EXPLAINED)
    sample = np.random.default_rng(_SAMPLE_SEED).permutation(explained)[:_CASES]
    probability = dataset["probability"].values[explained]
    order = np.argsort(-entropy(probability, activation), kind="stable")
    return np.sort(sample), explained[order[:_CASES]]


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
        limit = float(np.nanpercentile(np.abs(maps), _SCALE_PERCENTILE)) if maps.size else 0.0
        scales.append(Scale(str(name), limit or 1.0, signed=bool(np.nanmin(maps, initial=0) < 0)))
    return scales


def _cases(
    chosen: xr.Dataset, dataset: xr.Dataset, rows: NDArray[np.intp], scales: list[Scale]
) -> list[dict[str, object]]:
    cases = []
    for image_id in dataset["image_id"].values[rows]:
        image = chosen.sel(image_id=image_id)
        classes = [str(name) for name in image["class"].values]
        probabilities = image["probability"].values
        order = np.argsort(-probabilities)[:5]
        targets = [classes[index] for index in image["target_class"].values]
        cases.append(
            {
                "id": str(image_id),
                "label": str(image["label"].values),
                "predictions": [(classes[index], float(probabilities[index])) for index in order],
                "has_mask": "mask" in image and bool((image["mask"].values == 1).any() and NO_MASK),
                "rows": [(target, case_panels(image, column, scales)) for column, target in enumerate(targets)],
            }
        )
    return cases
