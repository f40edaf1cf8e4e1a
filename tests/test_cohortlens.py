"""The public Python entry: a cohort is explained in a script, without Prefect and Dask."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import cohortlens
from models.errors import ConfigurationError
from tasks.storage.location import Location
from tests.tasks.outputs import Cohort, carry_out, stored


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort", range(6))


def test_a_script_plans_runs_and_opens_what_the_command_line_would_store(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(cohort.content(output)))
    config = cohortlens.load(file)
    assert config == cohortlens.load(cohort.content(output))
    prepared = cohortlens.plan(config)
    assert prepared.cost.images == 6 and prepared.plan.maps == ("saliency", "smoothgrad") and output.sizes() == {}
    summary = cohortlens.run(config)
    assert (summary.explained, summary.pending) == (6, 0)
    dataset = cohortlens.open_output(tmp_path / "out")
    assert dataset.attribution.dims == ("image_id", "target", "explainer", "y", "x")
    assert np.isfinite(dataset.attribution.values).all() and (output / "report/index.html").exists()
    other = Location(url=str(tmp_path / "other"))
    carry_out(cohort.content(other))
    arrays = {key: data for key, data in stored(other).items() if key != "zarr.json"}
    assert arrays == {key: stored(output)[key] for key in arrays}
    assert cohortlens.run(config).explained == 6  # and nothing is done again
    more = cohort.content(output, explainers=["saliency", {"name": "smoothgrad", "samples": 2}, "control_edges"])
    with pytest.raises(ConfigurationError, match="--extend"):
        cohortlens.plan(cohortlens.load(more))
    assert cohortlens.plan(cohortlens.load(more), extend=True).changes is not None


def test_a_wrong_configuration_is_told_by_its_fields(cohort: Cohort, tmp_path: Path) -> None:
    content = cohort.content(Location(url=str(tmp_path / "out")))
    with pytest.raises(ConfigurationError, match=r"explainers\.0: there is no 'salency'; the nearest are saliency"):
        cohortlens.load(content | {"explainers": ["salency"]})
    with pytest.raises(FileNotFoundError):
        cohortlens.open_output(tmp_path / "nowhere")


def test_to_import_the_package_takes_no_library_of_weight() -> None:
    code = "import sys, cohortlens; print([name for name in ('torch', 'prefect', 'zarr') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_package_is_the_command_line() -> None:
    command = [sys.executable, "-m", "cohortlens", "--help"]
    assert "Explain every image" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
