"""The demo: make the demo cohort, and the configuration that explains it."""

from pathlib import Path

import yaml

from flows.config import RunConfig
from flows.progress import bar
from tasks.demo.cohort import write_cohort

_CHECKOUT = Path(__file__).resolve().parent.parent


def demo_config(output: str, *, spatial_dims: int, images: int) -> RunConfig:
    """Write the cohort beside `output` and return ``deployments/demo-<n>d.yaml`` with both places filled in."""
    content = yaml.safe_load((_CHECKOUT / f"deployments/demo-{spatial_dims}d.yaml").read_text())
    folder = Path(output).resolve()
    with bar("demo cohort written", "images") as progress:
        manifest = write_cohort(
            folder.with_name(f"{folder.name}-cohort"), images=images, spatial_dims=spatial_dims, progress=progress
        )
    content["cohort"]["source"] = str(manifest)
    content["model"]["weights"] = str(_CHECKOUT / content["model"]["weights"])
    content["output"] = str(folder)
    return RunConfig.model_validate(content)
