"""The evidence on the demo cohort, where the truth is known; written to docs/evidence.md.

Three networks of one architecture: the reference; one that was trained on shuffled labels, and knows nothing of
lesions; and one that was trained where a marker gives the lesion away. Many images are judged by the metrics that ask
the network nothing, for the explainers that ask it little; fewer by those that ask, and by those that explain anew.
"""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from flows.progress import bar
from flows.server import prefect_server
from tasks.demo.cohort import write_cohort
from tests.benchmarks.evidence_page import write_page

CHECKOUT = Path(__file__).resolve().parents[2]
WEIGHTS = CHECKOUT / "models/networks/weights"
SLOW = {"scorecam", "ablationcam", "occlusion", "feature_ablation", "lime", "kernel_shap", "shapley_sampling", "rise"}
ANEW = {"max_sensitivity", "cascading_randomisation", "independent_randomisation"}
PLAUSIBILITY = ["hit_rate", "iou", "auprc", "relevance_mass", "relevance_rank"]
QUICK = [*PLAUSIBILITY, "completeness_gap", "gini", "entropy", "explainer_agreement"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="Images that quick metrics judge")
    parser.add_argument("--every", type=int, help="Images that slow metrics judge; none: all")
    parser.add_argument("--quick", action="store_true", help="Whether slow metrics judge quick explainers alone")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "out/evidence")
    arguments = parser.parse_args()
    every = arguments.every or arguments.images
    explain_and_judge(arguments.folder, arguments.images, every, arguments.quick)
    write_page(arguments.folder, CHECKOUT / "docs/evidence.md", WEIGHTS, arguments.quick)


def explain_and_judge(folder: Path, images: int, every: int, quick: bool) -> None:
    """Do all runs; of what is there already, only what is new."""
    content = yaml.safe_load((CHECKOUT / "deployments/evidence-2d.yaml").read_text())
    plain, marked = _cohort(folder / "cohort", images, marker=False), _cohort(folder / "marked", images, marker=True)
    first = plain.with_name(f"first-{every}.csv")
    pd.read_csv(plain, dtype=str, keep_default_na=False).head(every).to_csv(first, index=False)
    few = {"explainers": _named(content["explainers"], leave_out=SLOW), "metrics": PLAUSIBILITY}
    asked = few["explainers"] if quick else content["explainers"]
    slow = [*_named(content["explainers"], SLOW), "control_random", "control_edges", "control_centre"]
    with prefect_server() as server_url:
        server_url()
        from flows.config import RunConfig, named_metrics
        from flows.evaluate import evaluate_cohort
        from flows.explain import explain_cohort

        def explain(name: str, source: Path, weights: str, **changes: Any) -> RunConfig:
            made = content | changes | {"output": str(folder / name)}
            made["cohort"] = content["cohort"] | {"source": str(source)}
            made["model"] = content["model"] | {"weights": str(WEIGHTS / f"{weights}.safetensors")}
            config = RunConfig.model_validate(made)
            explain_cohort(config)
            return config

        reference = explain("reference", plain, "attention_gated_2d", **few | {"metrics": QUICK})
        explain("marker", marked, "attention_gated_2d_marker", **few)
        shuffled = explain("shuffled", plain, "attention_gated_2d_shuffled", **few)
        evaluate_cohort(reference.output, named_metrics(["label_randomisation"]), (shuffled.output,))
        explain("slow", first, "attention_gated_2d", explainers=slow, metrics=PLAUSIBILITY)
        anew = _named(content["metrics"], ANEW)
        explain("anew", first, "attention_gated_2d", explainers=asked, metrics=anew)
        asking = _named(content["metrics"], leave_out={*QUICK, *ANEW})
        explain("asking", first, "attention_gated_2d", explainers=asked, metrics=asking)


def _named(parts: list[Any], names: Collection[str] | None = None, leave_out: Collection[str] = ()) -> list[Any]:
    """Those parts of a configuration that have one of the names, and none of those that are left out."""
    named = {part if isinstance(part, str) else part["name"]: part for part in parts}
    return [part for name, part in named.items() if (names is None or name in names) and name not in leave_out]


def _cohort(folder: Path, images: int, *, marker: bool) -> Path:
    """The manifest of a cohort that is there, or is written; the first images of a larger one are the same."""
    manifest = folder / "manifest.csv"
    if manifest.exists() and len(pd.read_csv(manifest)) == images:
        return manifest
    with bar("cohort written", "images") as progress:
        return write_cohort(folder, images=images, spatial_dims=2, damaged=0, marker=marker, progress=progress)


if __name__ == "__main__":
    main()
