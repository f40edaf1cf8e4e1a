"""The demo: make the demo cohort, and the configuration that explains it."""

from pathlib import Path
from typing import Any

import yaml

from flows.config import RunConfig
from flows.progress import bar
from tasks.demo.cohort import write_cohort

_CHECKOUT = Path(__file__).resolve().parent.parent


def demo_config(output: str, *, spatial_dims: int, images: int) -> RunConfig:
    """Write the cohort beside `output` and return the configuration that explains it there."""
    folder = Path(output).resolve()
    cohort = folder.with_name(f"{folder.name}-cohort")
    damaged = min(3, images // 20)  # never more than the demo's configuration allows
    with bar("demo cohort written", "images") as progress:
        manifest = write_cohort(cohort, images=images, spatial_dims=spatial_dims, damaged=damaged, progress=progress)
    return RunConfig.model_validate(demo_content(str(manifest), str(folder), spatial_dims=spatial_dims))


def demo_content(manifest: str, output: str, *, spatial_dims: int) -> dict[str, Any]:
    """``deployments/demo-<n>d.yaml`` for a cohort and an output, wherever it is run from."""
    content: dict[str, Any] = yaml.safe_load((_CHECKOUT / f"deployments/demo-{spatial_dims}d.yaml").read_text())
    content["cohort"]["source"] = manifest
    content["model"]["weights"] = str(_CHECKOUT / content["model"]["weights"])
    content["output"] = output
    return content
