"""The evidence on the demo cohort, where the truth is known; written to docs/evidence.md.

Three networks of one architecture: the reference; one that was trained on shuffled labels, and knows nothing of
lesions; and one that was trained where a marker gives the lesion away. Many images are evaluated by the metrics that
ask the network nothing, for the explainers that ask it little; fewer by every metric for every explainer.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from flows.progress import bar
from flows.server import prefect_server
from tasks.demo.cohort import write_cohort
from tasks.demo.shipped import WEIGHTS
from tests.benchmarks.evidence_page import write_page
from tests.benchmarks.evidence_results import COHORTS, IMAGES, write_section

CHECKOUT = Path(__file__).resolve().parents[2]
SLOW = {"scorecam", "ablationcam", "occlusion", "feature_ablation", "lime", "kernel_shap", "shapley_sampling", "rise"}
PLAUSIBILITY = ["hit_rate", "iou", "auprc", "relevance_mass", "relevance_rank"]
QUICK = [*PLAUSIBILITY, "completeness_gap", "gini", "entropy", "explainer_agreement"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="Images that quick metrics evaluate")
    parser.add_argument("--every", type=int, default=1000, help="Images that every metric evaluates; 0 leaves that out")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "out/evidence")
    arguments = parser.parse_args()
    explain_and_evaluate(arguments.folder, arguments.images, arguments.every)
    page = CHECKOUT / "docs/evidence.md"
    write_page(arguments.folder, page, WEIGHTS, every=arguments.every > 0)
    write_section(page, IMAGES, COHORTS)


def explain_and_evaluate(folder: Path, images: int, every: int) -> None:
    """Do all runs; of what is there already, only what is new."""
    content = yaml.safe_load((CHECKOUT / "deployments/evidence-2d.yaml").read_text())
    plain, marked = _cohort(folder / "cohort", images, marker=False), _cohort(folder / "marked", images, marker=True)
    first = plain.with_name(f"first-{every}.csv")
    pd.read_csv(plain, dtype=str, keep_default_na=False).head(every).to_csv(first, index=False)
    quick = [one for one in content["explainers"] if (one if isinstance(one, str) else one["name"]) not in SLOW]
    few = {"explainers": quick, "metrics": PLAUSIBILITY}
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
        if every:
            explain("every-metric", first, "attention_gated_2d")


def _cohort(folder: Path, images: int, *, marker: bool) -> Path:
    """The manifest of a cohort that is there, or is written; the first images of a larger one are the same."""
    manifest = folder / "manifest.csv"
    if manifest.exists() and len(pd.read_csv(manifest)) == images:
        return manifest
    with bar("cohort written", "images") as progress:
        return write_cohort(folder, images=images, spatial_dims=2, damaged=0, marker=marker, progress=progress)


if __name__ == "__main__":
    main()
