"""The clusters of runs: they grow with the work, it is dealt out to all workers, and GPUs are named."""

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import psutil
import pytest
from distributed import LocalCluster, Security, rpc
from pydantic import ValidationError

from flows.cluster import PlaceConfig, expected_workers, gpus, local_workers, place_of, task_runner
from flows.config import explain_errors
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
    assert 150 < len(groups(range(2000), expected_workers(PlaceConfig(scheduler="tcp://scheduler:8786")))) <= 256


ATTACKS: list[dict[str, Any]] = [
    {"_target_": "os.system", "command": "touch SENTINEL"},
    {"_target_": "distributed.preloading._import_module", "name": "import os; os.system('touch SENTINEL')"},
    {"_target_": "distributed.preloading.Preload", "dask_server": 1, "name": "SENTINEL"},
    {"_target_": "distributed.utils.import_file", "path": "SENTINEL"},
    {"_target_": "distributed.deploy.local.os.system", "command": "touch SENTINEL"},
    {"_target_": "distributed.SSHCluster", "hosts": ["localhost"]},
    {"_target_": "distributed.SubprocessCluster", "worker_kwargs": {"preload": "SENTINEL"}},
    {"_target_": "distributed.SpecCluster", "workers": {"0": {"cls": "os.system"}}},
    {"_target_": "distributed.Client"},
    {"_target_": "distributed.LocalCluster", "preload": "import os; os.system('touch SENTINEL')"},
    {"_target_": "distributed.LocalCluster", "preload_nanny": ["SENTINEL"]},
    {"_target_": "distributed.LocalCluster", "worker_class": "os.system"},
    {"_target_": "distributed.LocalCluster", "env": {"LD_PRELOAD": "SENTINEL"}},
    {"_target_": "distributed.LocalCluster", "local_directory": "SENTINEL"},
    {"_target_": "distributed.LocalCluster", "scheduler_kwargs": {"preload": "SENTINEL"}},
    {"_target_": "distributed.LocalCluster", "plugins": ["SENTINEL"]},
    {"_target_": "distributed.LocalCluster", "host": "0.0.0.0"},
    {"_target_": "distributed.LocalCluster", "protocol": "tcp://"},
    {"_target_": "distributed.LocalCluster", "security": False},
    {"_target_": "dask_cuda.LocalCUDACluster", "pre_import": "SENTINEL"},
    {"_target_": "dask_jobqueue.SLURMCluster", "python": "sh -c 'touch SENTINEL'"},
    {"_target_": "dask_jobqueue.SLURMCluster", "job_script_prologue": ["touch SENTINEL"]},
    {"_target_": "dask_jobqueue.SLURMCluster", "worker_extra_args": ["--preload", "SENTINEL"]},
    {"_target_": "dask_jobqueue.SLURMCluster", "env_extra": ["touch SENTINEL"]},
    {"_target_": "dask_jobqueue.SLURMCluster", "shebang": "#!SENTINEL"},
    {"_target_": "dask_jobqueue.SLURMCluster", "queue": "gpu\ntouch SENTINEL"},
    {"_target_": "dask_jobqueue.SLURMCluster", "account": "$(touch SENTINEL)"},
    {"_target_": "dask_jobqueue.SLURMCluster", "walltime": "1:00; touch SENTINEL"},
    {"_target_": "dask_jobqueue.SLURMCluster", "job_extra_directives": ["--gres=gpu:1\ntouch SENTINEL"]},
    {"_target_": "dask_jobqueue.SLURMCluster", "job_extra_directives": ["--output=/SENTINEL"]},
    {"_target_": "dask_jobqueue.SLURMCluster", "job_extra_directives": ["--wrap=id"]},
    {"_target_": "dask_jobqueue.SLURMCluster", "job_extra_directives": ["--container-image=evil:1"]},
    {"_target_": "dask_jobqueue.SLURMCluster", "job_extra_directives": ["--uid=0"]},
    {"_target_": "dask_jobqueue.SLURMCluster", "log_directory": "/SENTINEL"},
    {"_target_": "dask_jobqueue.local.LocalCluster", "python": "touch SENTINEL"},
    {"_target_": "dask_jobqueue.core.subprocess.Popen", "args": "touch SENTINEL"},
    {"_target_": "dask_kubernetes.operator.KubeCluster", "image": "evil/SENTINEL"},
    {"_target_": "dask_kubernetes.operator.KubeCluster", "env": {"X": "SENTINEL"}},
    {"_target_": "dask_kubernetes.operator.KubeCluster", "worker_command": ["touch", "SENTINEL"]},
    {"_target_": "dask_kubernetes.operator.KubeCluster", "custom_cluster_spec": "http://SENTINEL"},
    {"_target_": "dask_kubernetes.operator.KubeCluster", "resources": {"limits": {"cpu": "`touch SENTINEL`"}}},
    {"_target_": "dask_gateway.GatewayCluster", "address": "http://SENTINEL"},
    {"_target_": "dask_yarn.YarnCluster", "environment": "hdfs:///SENTINEL"},
]


@pytest.mark.parametrize("component", ATTACKS, ids=lambda component: str(list(component.values())[:2])[:60])
def test_a_cluster_runs_nothing_that_a_configuration_says(
    component: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match=r"compute|cluster") as error:
        PlaceConfig.model_validate({"cluster": component})
    assert "is not allowed" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "component",
    [
        {"_target_": "dask_jobqueue.SLURMCluster", "config_name": "slurm-gpu", "security": True},
        {"_target_": "dask_jobqueue.SLURMCluster", "queue": "gpu.long", "cores": 4, "memory": "16 GiB"},
        {"_target_": "dask_jobqueue.PBSCluster", "resource_spec": "select=1:ncpus=4:mem=16GB", "walltime": "04:00:00"},
        {
            "_target_": "dask_jobqueue.SLURMCluster",
            "job_extra_directives": ["--gres=gpu:1", "--exclusive", "--mem-per-cpu=4G"],
        },
        {"_target_": "dask_kubernetes.operator.KubeCluster", "resources": {"limits": {"cpu": "2", "memory": "8Gi"}}},
        {"_target_": "dask_cloudprovider.aws.EC2Cluster", "instance_type": "m5.large"},
    ],
)
def test_sizes_and_names_are_a_configurations_to_say(component: dict[str, Any]) -> None:
    assert PlaceConfig.model_validate({"cluster": component}).cluster == component


@pytest.mark.parametrize(
    "address", ["tcp://user:secret@h:8786", "tls://h:8786?token=secret", "tls://h:8786#secret", "wss://h/x?key=secret"]
)
def test_an_address_with_credentials_is_refused(address: str) -> None:
    with pytest.raises(ValidationError) as error:
        PlaceConfig(scheduler=address)
    assert "secret" not in explain_errors(error.value)


def test_a_cluster_that_does_not_start_says_which_and_why(tmp_path: Path) -> None:
    runner = task_runner(PlaceConfig(cluster={"_target_": "dask_jobqueue.SLURMCluster"}))
    with pytest.raises(ConfigurationError, match=r"compute.cluster: .*SLURMCluster` with {}: Value"):
        assert runner.client
    with pytest.raises(ConfigurationError, match="cannot be imported: No module named 'dask_yarn'"):
        task_runner(PlaceConfig(cluster={"_target_": "dask_yarn.YarnCluster"}))


@pytest.mark.parametrize(
    "compute",
    [
        {"workers": 1},
        {"cluster": _NOBODY | {"n_workers": 1, "dashboard_address": ":0"}},
        {"cluster": {"_target_": "distributed.LocalCluster", "n_workers": 1}},
    ],
)
def test_a_cluster_on_this_machine_is_closed_to_its_other_users(compute: object) -> None:
    with task_runner(PlaceConfig.model_validate(compute)) as runner:
        assert runner.client.submit(pow, 2, 3).result() == 8
        (worker,) = runner.client.scheduler_info()["workers"].items()
        addresses = [runner.client.scheduler.address, worker[0], worker[1]["nanny"]]
        assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
        us = psutil.Process()
        listening = [
            one.laddr.ip
            for process in (us, *us.children(recursive=True))
            for one in process.net_connections()
            if one.status == "LISTEN"
        ]
        assert set(listening) == {"127.0.0.1"}
        for address in addresses:
            plain = address.replace("tls://", "tcp://")
            with pytest.raises(OSError, match="identity"):
                asyncio.run(said_to(plain, None))
            for security in (Security(require_encryption=True), Security.temporary()):  # no key, and one of their own
                with pytest.raises((OSError, TypeError)):
                    asyncio.run(said_to(address, security))


def test_workers_have_the_environment_of_the_run_not_of_the_first_run_of_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for secret in ("first", "second"):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        with task_runner(PlaceConfig(workers=1, gpus=0)) as runner:
            assert runner.client.submit(lambda: os.environ["AWS_SECRET_ACCESS_KEY"]).result() == secret


async def said_to(address: str, security: Security | None) -> Any:
    """Ask a Dask process as a stranger, within 3 s."""
    remote = rpc(address, connection_args=security.get_connection_args("client") if security else {}, timeout=3)
    try:
        return await asyncio.wait_for(remote.identity(), 5)
    finally:
        await remote.close_rpc()


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
    assert runner.cluster_kwargs["threads_per_worker"] == 2
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


def test_workers_are_counted_as_a_containers_quota_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.cluster.CPU_COUNT", 3)
    place = place_of(PlaceConfig(gpus=0))
    assert (place.workers, place.threads) == (3, 1)
    assert place_of(PlaceConfig(gpus=0, workers=1)).threads == 3


def test_gpus_are_counted_by_dask_cuda_where_nobody_names_them(
    four_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    utils: Any = ModuleType("dask_cuda.utils")
    utils.get_gpu_count = lambda: 2
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError = type("NVMLError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "dask_cuda.utils", utils)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpus(PlaceConfig()) == ["0", "1"]

    def without_driver() -> int:
        raise nvml.NVMLError

    utils.get_gpu_count = without_driver
    assert gpus(PlaceConfig()) == []


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
