"""`make slurm`: the demo cohort, explained by jobs of a real SLURM, told what infra/slurm/jobqueue.yaml says."""

import os
from pathlib import Path

import dask
import pytest
import xarray as xr
import yaml

from flows.config import RunConfig, load
from flows.demo import demo_content
from tasks.storage.location import Location
from tasks.store import objects
from tasks.upkeep.verify import verify
from tests.infra.slurm_site import slurm_site

_SLURM = Path("infra/slurm").resolve()


@pytest.mark.timeout(400)
def test_a_cohort_is_explained_by_jobs_as_it_is_on_this_machine(slices: Path, tmp_path: Path, prefect: str) -> None:
    from flows.explain import explain_cohort

    def explain(name: str, compute: object) -> xr.Dataset:
        content = demo_content(str(slices), str(tmp_path / name), spatial_dims=2)
        content["cohort"] |= {"allowed_failures": 0.2}
        explain_cohort(RunConfig.model_validate(content | {"compute": compute}))
        assert verify(Location(url=str(tmp_path / name))) == []
        return xr.open_zarr(tmp_path / name / objects.NAME).load()

    site = dask.config.merge(dask.config.config, yaml.safe_load((_SLURM / "jobqueue.yaml").read_text()))
    (tmp_path / "site").mkdir()
    with slurm_site(tmp_path / "site", "cpu", cpus=4, memory=17_000), dask.config.set(site):
        by_jobs = explain("slurm", load(_SLURM / "cohort-cpu.yaml").compute.model_dump(exclude_none=True))

    jobs = [line for line in (tmp_path / "site/jobs.txt").read_text().splitlines() if "Name=cohortlens" in line]
    assert jobs
    assert all("Partition=cpu" in job and "ProcCnt=4" in job for job in jobs)
    assert not {"SLURM_CONF"} & os.environ.keys()
    xr.testing.assert_identical(by_jobs.drop_attrs(), explain("local", {"workers": 2}).drop_attrs())
