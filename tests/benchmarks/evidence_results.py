"""Concepts, similar cases and shortcuts, where the truth is known; the last section of docs/evidence.md.

The networks are those of `tests.benchmarks.evidence`. Images are drawn in memory, each of a subject of its own.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

import cohortlens
from models.explainers.base import MAPS
from models.networks import AttentionGatedClassifier
from models.outputs import Frame
from models.prediction import LOGIT
from models.results import TCAV, Shortcuts, SimilarCases
from models.results.shortcuts import hints
from models.training import standardise
from tasks.demo.phantom import phantom
from tasks.demo.shipped import WEIGHTS
from tasks.report import numbers
from tasks.report.similar import Retrieval, Similar, retrieval
from tests.models.cohorts import Cohort

PAGE = Path(__file__).resolve().parents[2] / "docs/evidence.md"
HEADING = "## Concepts, similar cases, shortcuts"
IMAGES, COHORTS = 96, 5
NETWORKS = {
    "the reference": "attention_gated_2d",
    "trained on shuffled labels": "attention_gated_2d_shuffled",
    "trained where a letter gives it away": "attention_gated_2d_marker",
}
REFERENCE, SHUFFLED, MARKER = NETWORKS
CAMS = ("gradcam", "hirescam", "layercam", "guided_gradcam")
EXPLAINERS = ("saliency", "input_x_gradient", *CAMS, "lrp", "control_random")
LAYERS = ("blocks.1", "blocks.3")
CLASSES = ("normal", "lesion")
EXPLAINED = CLASSES.index("lesion")
SEED = 100
SHOWING = 40
"""Images that show a concept."""

RANDOM = tuple(f"random {number}" for number in range(1, 5))
CORNER = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="Images of a cohort")
    parser.add_argument("--cohorts", type=int, default=COHORTS, help="Cohorts without a shortcut")
    arguments = parser.parse_args()
    write_section(PAGE, arguments.images, arguments.cohorts)


def write_section(page: Path, images: int, cohorts: int) -> None:
    """Compute the section and write it at the end of the page, in the place of the one that is there."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = numbers.number
    section = environment.get_template("evidence_results.md.j2").render(measured(images, cohorts))
    page.write_text(f"{page.read_text().partition(HEADING)[0].rstrip()}\n\n{HEADING}\n{section.rstrip()}\n")


def measured(images: int, cohorts: int) -> dict[str, Any]:
    """Compute everything that the section shows."""
    clean = [drawn(images, SEED + number) for number in range(cohorts)]
    every, labels = torch.cat([own for own, _ in clean]), [label for _, own in clean for label in own]
    by_reference = explained(REFERENCE, every, labels, ["embedding", *EXPLAINERS])
    by_shuffled = explained(SHUFFLED, every, labels, ["embedding"])
    by_marker = explained(MARKER, *drawn(images, SEED, marker=True), EXPLAINERS)
    apart = [by_reference.taken(rows) for rows in np.split(np.arange(len(labels)), cohorts)]
    return {
        "images": images,
        "cohorts": cohorts,
        "showing": SHOWING,
        "random": len(RANDOM),
        "corner": CORNER,
        "concepts": [told for network in NETWORKS for told in concepts_of(network, every, labels)],
        "retrieved": [
            *((REFERENCE, precision(by_reference, explainer)) for explainer in (None, *EXPLAINERS)),
            (SHUFFLED, precision(by_shuffled, None)),
        ],
        "shortcuts": [
            (explainer, *letters_in(by_marker, explainer), sum(alarms(cohort, explainer) for cohort in apart))
            for explainer in EXPLAINERS
        ],
    }


def drawn(images: int, seed: int, *, marker: bool = False) -> tuple[Tensor, list[str]]:
    """Draw images, every other one with a lesion, and their labels."""
    phantoms = [phantom(index, spatial_dims=2, seed=seed, marker=marker) for index in range(images)]
    return torch.from_numpy(np.stack([one.pixels for one in phantoms])[:, None]), [one.label for one in phantoms]


def explained(network: str, images: Tensor, labels: Sequence[str], explainers: Sequence[Any]) -> Cohort:
    """Explain the lesion in images by one of the networks."""
    module = AttentionGatedClassifier(spatial_dims=2, in_channels=1, num_classes=2)
    module.load_state_dict(load_file(WEIGHTS / f"{NETWORKS[network]}.safetensors"))
    target = {"name": "classes", "classes": ["lesion"]}
    dataset = cohortlens.explain(module.eval(), standardise(images), explainers, classes=CLASSES, target=target)
    maps = tuple(map(str, dataset["explainer"].values)) if MAPS in dataset else ()
    frame = Frame(CLASSES, ("lesion",), maps, ("grey",), tuple(images.shape[2:]), "softmax")
    ids = [f"{row:05}" for row in range(len(images))]
    arrays = {str(name): values.values for name, values in dataset.data_vars.items()}
    return Cohort(frame, ids, labels, ids, np.ones(len(ids), bool), arrays)


@dataclass(frozen=True)
class Told:
    """A letter in the corner as a concept of a network, by one of its layers.

    Attributes
    ----------
    raises
        The mean change of the lesion's logit by the letter itself.
    of_random
        How many random sets of images are taken for a concept.
    """

    network: str
    layer: str
    raises: float
    accuracy: float
    score: float
    random_score: float
    p: float
    of_random: int


def concepts_of(network: str, images: Tensor, labels: Sequence[str]) -> Iterator[Told]:
    """Test the letter, which images with and without a lesion show, and random sets of images."""
    written = with_letter(images[:SHOWING])
    named = np.array(labels, dtype="<U10")
    sets = np.random.default_rng(SEED).permutation(len(images))[: SHOWING * len(RANDOM)]
    named[sets] = np.repeat(RANDOM, SHOWING)
    pooled = [{"name": "pooled_activations", "layer": layer, "label": layer.replace(".", "_")} for layer in LAYERS]
    cohort = explained(network, torch.cat([images, written]), [*named.tolist(), *["letter"] * len(written)], pooled)
    logits = cohort.arrays[LOGIT][:, EXPLAINED]
    raises = float((logits[len(images) :] - logits[: len(written)]).mean())
    for layer, vectors in zip(LAYERS, pooled, strict=True):
        found = TCAV(concepts=("letter", *RANDOM), of=vectors["label"]).compute(cohort)
        score, random_score, p = (found[f"tcav_{name}"][:, EXPLAINED] for name in ("score", "random_score", "p"))
        of_random = int((found["tcav_flags"][1:] == 0).sum())
        yield Told(network, layer, raises, found["tcav_accuracy"][0], score[0], random_score[0], p[0], of_random)


def with_letter(images: Tensor) -> Tensor:
    """Write into images the letter of the demo cohort with a shortcut."""
    marked, plain = (phantom(1, spatial_dims=2, seed=SEED, marker=marker).pixels for marker in (True, False))
    return torch.where(torch.from_numpy(marked != plain), torch.tensor(1.0), images)


def precision(cohort: Cohort, explainer: str | None) -> list[Retrieval]:
    """Measure the precision at 1 and at 5 by embedding, or by the maps of an explainer."""
    result = SimilarCases() if explainer is None else SimilarCases(of=MAPS, explainer=explainer)
    found = result.compute(cohort)
    arrays = {"similar_precision": (("image_id", "k"), found["similar_precision"])}
    dataset = xr.Dataset({**arrays, "similar_chance": ("image_id", found["similar_chance"])})
    return list(retrieval(Similar(dataset, np.arange(len(cohort.ids)), "similar", result.by), cohort.subjects))


def letters_in(cohort: Cohort, explainer: str) -> tuple[bool, float]:
    """Tell whether a hint is at the letter, and the share of the images with a letter that lie in such clusters."""
    found = Shortcuts(explainer=explainer).compute(cohort)
    peaks = [np.unravel_index(one.argmax(), one.shape) for one in np.nan_to_num(found["shortcut_map"])]
    at_letter = hints(found["shortcut_flags"]) & np.array([max(place) < CORNER for place in peaks])
    marked: NDArray[np.bool_] = np.array(cohort.labels) == "lesion"
    return bool(at_letter.any()), float(at_letter[found["shortcut_cluster"]][marked].mean())


def alarms(cohort: Cohort, explainer: str) -> bool:
    """Tell whether any cluster hints at a shortcut."""
    return bool(hints(Shortcuts(explainer=explainer).compute(cohort)["shortcut_flags"]).any())


if __name__ == "__main__":
    main()
