"""The demo: make the demo cohort, and the configuration that explains it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flows.config import RunConfig
from flows.progress import bar
from flows.yaml import read_yaml
from models.errors import ConfigurationError
from tasks.demo.cohort import write_cohort
from tasks.demo.shipped import CONFIGURATIONS, WEIGHTS


def demo_config(output: str, *, spatial_dims: int, images: int, marker: bool = False) -> RunConfig:
    """Write the cohort beside `output` and return the configuration that explains it there.

    Raises
    ------
    ConfigurationError
        If volumes are to carry the marker: there is no network that was trained on such. If nilearn is not installed.
    """
    if not find_spec("nilearn"):
        raise ConfigurationError("the demo draws its images from nilearn's template: install the extra `demo`")
    if marker and spatial_dims != 2:
        raise ConfigurationError("--marker: the network that was trained with it is of slices; leave out --dims 3")
    folder = Path(output).resolve()
    cohort = folder.with_name(f"{folder.name}-cohort")
    damaged = min(3, images // 20)  # never more than the demo's configuration allows
    with bar("demo cohort written", "images") as progress:
        manifest = write_cohort(
            cohort, images=images, spatial_dims=spatial_dims, damaged=damaged, marker=marker, progress=progress
        )
    return RunConfig.model_validate(demo_content(str(manifest), str(folder), spatial_dims=spatial_dims, marker=marker))


def demo_content(manifest: str, output: str, *, spatial_dims: int, marker: bool = False) -> dict[str, Any]:
    """``tasks/demo/demo-<n>d.yaml`` for a cohort and an output, wherever it is run from.

    With `marker`, the cohort is one where a marker gives the lesion away, and the network one that was trained on such.
    """
    name = f"marker-{spatial_dims}d" if marker else f"demo-{spatial_dims}d"
    content: dict[str, Any] = read_yaml((CONFIGURATIONS / f"{name}.yaml").read_bytes(), f"{name}.yaml")
    content["cohort"]["source"] = manifest
    content["model"]["weights"] = str(WEIGHTS / Path(content["model"]["weights"]).name)
    content["output"] = output
    return content
