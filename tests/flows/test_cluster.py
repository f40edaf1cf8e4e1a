"""The clusters of runs: they grow with the work, it is dealt out to all workers, and GPUs are named."""

import sys
from types import ModuleType
from typing import Any

import dask
import pytest
from distributed import LocalCluster

from flows.cluster import PlaceConfig, expected_workers, gpus, local_workers, task_runner
from models.errors import ConfigurationError
from tasks.plan.shards import groups

_NOBODY = {"_target_": "distributed.LocalCluster", "n_workers": 0, "threads_per_worker": 1, "dashboard_address": ":0"}


def test_a_cluster_that_begins_with_no_worker_grows_with_the_work_up_to_the_maximum() -> None:
    compute = PlaceConfig.model_validate({"cluster": _NOBODY, "adapt": {"maximum": 2}})
    with task_runner(compute) as runner:
        assert runner.client.scheduler_info()["workers"] == {}
        assert runner.client.gather(runner.client.map(pow, range(8), [2] * 8)) == [n * n for n in range(8)]
        assert 1 <= len(runner.client.scheduler_info()["workers"]) <= 2


@pytest.mark.parametrize(
    ("compute", "workers"),
    [
        ({}, local_workers(PlaceConfig())),
        ({"workers": 3}, 3),
        ({"scheduler": "tcp://scheduler:8786"}, 32),
        ({"cluster": _NOBODY}, 32),
        ({"cluster": _NOBODY, "adapt": {"maximum": 100}}, 100),
    ],
)
def test_work_is_dealt_out_to_every_worker_that_may_come(compute: object, workers: int) -> None:
    assert expected_workers(PlaceConfig.model_validate(compute)) == workers


def test_a_cluster_of_unknown_size_gets_as_many_groups_as_there_are() -> None:
    assert len(groups(range(2000), expected_workers(PlaceConfig(scheduler="tcp://scheduler:8786")))) == 256


class Recorded:
    """A stand-in for `dask_cuda.LocalCUDACluster`, which needs a GPU to be made."""


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,GPU-7f")
    dask_cuda: Any = ModuleType("dask_cuda")
    dask_cuda.LocalCUDACluster, dask_cuda.__spec__ = Recorded, ModuleType  # find_spec wants one
    monkeypatch.setitem(sys.modules, "dask_cuda", dask_cuda)


@pytest.mark.parametrize(
    ("compute", "devices"),
    [
        ({}, ["0", "1", "2", "GPU-7f"]),
        ({"workers": 2}, ["0", "1"]),
        ({"gpus": 3}, ["0", "1", "2"]),
        ({"gpus": 0}, []),
        ({"scheduler": "tcp://h:1"}, []),
    ],
)
def test_each_gpu_gets_one_worker(compute: dict[str, Any], devices: list[str], four_gpus: None) -> None:
    config = PlaceConfig(**compute)
    assert gpus(config) == devices
    if compute.get("scheduler"):
        return
    runner = task_runner(config)
    assert runner.resolved_cluster_class is (Recorded if devices else LocalCluster)
    assert runner.cluster_kwargs.get("CUDA_VISIBLE_DEVICES", []) == devices
    assert runner.cluster_kwargs["threads_per_worker"] == 1
    if devices:
        assert runner.cluster_kwargs["n_workers"] == len(devices) == local_workers(config)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"gpus": 5}, "compute.gpus: 5, but 4 GPUs are visible"),
        ({"workers": 5}, "compute.workers: 5, but 4 GPUs are visible"),
        ({"workers": 1, "gpus": 2}, "give one of the two"),
    ],
)
def test_gpus_that_are_not_there_are_refused(compute: dict[str, Any], message: str, four_gpus: None) -> None:
    with pytest.raises(ConfigurationError, match=message):
        gpus(PlaceConfig(**compute))


def test_without_gpus_it_computes_on_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert gpus(PlaceConfig()) == []
        assert local_workers(PlaceConfig(workers=3)) == 3
    with pytest.raises(ConfigurationError, match="2, but 0 GPUs"):
        gpus(PlaceConfig(gpus=2))


def test_gpus_without_dask_cuda_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    monkeypatch.setattr("flows.cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="dask-cuda is not installed"):
        gpus(PlaceConfig())


@pytest.mark.parametrize("compute", [{"workers": 1}, {"cluster": _NOBODY}])
def test_a_scheduler_of_ours_lets_many_workers_die_of_the_same_work(compute: object) -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 3}):
        task_runner(PlaceConfig.model_validate(compute))
        assert dask.config.get("distributed.scheduler.allowed-failures") == 10
