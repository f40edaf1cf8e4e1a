"""A small cohort, and the configuration of a run over it that has every result."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

from models.results import RESULTS
from tasks.plan.regions import Regions
from tests.tasks.outputs import NETWORK, squares_model

IMAGES, CONCEPT = 66, 24
"""All images, and those that show a concept; two are of one subject."""

RESULTS_OF_ALL_KINDS = [
    "mean_maps",
    "prototypes",
    "similar_cases",
    {"name": "similar_cases", "label": "by_map", "of": "attribution", "explainer": "saliency"},
    {"name": "shortcuts", "explainer": "saliency", "clusters": 3},
    {"name": "tcav", "concepts": ["bright"], "classifier": "mean_difference"},
    {"name": "rcv", "measures": ["age"]},
    {"name": "class_visualisation", "steps": 4, "seeds": 1, "images": 2},
    {"name": "concept_visualisation", "steps": 4, "seeds": 1, "images": 1},
    "words",
]


def of_every_result(folder: Path, without: Collection[int] = ()) -> dict[str, Any]:
    """Write slices with a place in the patient, and an atlas of them; those of some subjects are left out."""
    rows = []
    for number in range(IMAGES):
        bright = number < CONCEPT
        pixels = np.random.default_rng(number).normal(size=(16, 16, 1)).astype(np.float32) + np.float32(2 * bright)
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), folder / f"{number}.nii.gz")
        label = "ab"[number // 2 % 2] + "|bright" * bright
        row = {"id": f"id-{number}", "uri": f"{number}.nii.gz", "label": label, "subject": f"patient-{number // 2}"}
        rows += [row | {"site": f"site-{number % 3}", "age": pixels.mean() + number % 7}] * (number // 2 not in without)
    labels = np.arange(16)[:, None, None] // 6 * np.ones((16, 16, 1))
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), np.eye(4)), folder / "atlas.nii.gz")
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    columns = {name: name for name in ("uri", "id", "label", "subject")}
    cohort = {"source": str(folder / "manifest.csv"), "identifiers": "as given", "columns": columns}
    return {
        "cohort": cohort | {"covariates": ["site"], "measures": ["age"]},
        "model": squares_model(folder, ("a", "b"), NETWORK),
        "explainers": ["saliency", "embedding", "pooled_activations"],
        "target": {"name": "classes", "classes": ["a"]},
        "results": [*RESULTS_OF_ALL_KINDS, {"name": "regions", "atlas": str(folder / "atlas.nii.gz")}],
        "batch_size": 8,
    }


EVERY_KIND = {*RESULTS.kinds, Regions.model_fields["name"].default} - {"prototype_patches"}  # of other networks
