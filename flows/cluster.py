"""The Dask cluster that a run's shards are explained on."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import dask
import dask.utils
from dask.system import CPU_COUNT
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flows import forked
from flows.cluster_classes import check_cluster, starter
from flows.prices import Prices
from models.components import Component
from models.errors import ConfigurationError
from tasks.prepare.place import Place
from tasks.storage.credentials import plain_address

_DEATHS_ALLOWED = 10
"""Deaths of workers on one group of shards. Each goes on where the last one was stopped, so that Dask's 3 would be few;
but what kills whoever works on it has to end."""

_SILENCE_ALLOWED = "1 hour"
"""Silence of a worker. On a machine that is too busy for its heartbeat, Dask would forget it after five minutes; it
then ends, and nobody starts another."""


_SELDOM = {
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.memory.monitor-interval": "500ms",
}
"""Intervals at which Dask's processes look around; at its own, a scheduler of two takes a twentieth of a core."""

_MOST_WORKERS = 32
"""A cluster of unknown size is taken to have so many. Each then gets four groups of shards, and more groups than that
`tasks.plan.shards.groups` never makes."""


class Adapt(BaseModel):
    """Bounds of a cluster that grows and shrinks with the work."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    minimum: int = Field(0, ge=0, description="Workers that are kept when there is no work")
    maximum: int = Field(ge=1, description="Workers that there are at most")

    @model_validator(mode="after")
    def _in_order(self) -> "Adapt":
        if self.minimum > self.maximum:
            raise ValueError(f"the minimum of {self.minimum} workers is more than the maximum of {self.maximum}")
        return self


class PlaceConfig(BaseModel):
    """The cluster that the work is done on; empty: a Dask cluster on this machine, one worker a core or a GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    workers: int | None = Field(None, ge=1, description="Number of local workers; none: one a GPU, or one a core")
    gpus: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="GPUs of this machine that are used, one worker each; auto: all that are visible"
    )
    scheduler: Annotated[str, AfterValidator(plain_address)] | None = Field(
        None, pattern="^(tcp|tls|ucx|ws|wss)://", description="Address of a running Dask scheduler instead"
    )
    cluster: Annotated[Component, AfterValidator(check_cluster)] | None = Field(
        None,
        description="A cluster class with its arguments instead: `{_target_: dask_jobqueue.SLURMCluster, cores: 8}`",
    )
    adapt: Adapt | None = Field(
        None, description="Lets `cluster` grow and shrink with the work; without it, it has the workers it starts with"
    )
    memory_per_worker: str | None = Field(
        None, description="Memory limit of a local worker, e.g. 8GiB; none: its share of the machine"
    )
    performance_report: bool = Field(False, description="Whether Dask's account of the run is kept in the output")
    prices: Prices = Field(Prices(), description="What a run's cost is reckoned with in the UI")

    @model_validator(mode="after")
    def _one_kind(self) -> "PlaceConfig":
        if self.scheduler and self.cluster:
            raise ValueError("scheduler and cluster exclude each other: give the one that is to be used")
        if self.adapt and not self.cluster:
            raise ValueError("adapt goes with cluster: any other has the workers that it has")
        if is_elsewhere(self) and (self.workers or self.memory_per_worker or self.gpus != "auto"):
            raise ValueError("workers, gpus and memory_per_worker are of a local cluster: leave them out here")
        return self


def local_workers(compute: PlaceConfig) -> int:
    """Workers that a local cluster has."""
    return len(gpus(compute)) or compute.workers or CPU_COUNT


def is_elsewhere(compute: PlaceConfig) -> bool:
    """True if the workers may be of other machines, of which nothing is known here."""
    return bool(compute.scheduler or compute.cluster)


def gpus(compute: PlaceConfig) -> list[str]:
    """The GPUs that a local cluster uses, one worker each; none: it computes on cores.

    Raises
    ------
    ConfigurationError
        If they are not there, or cannot be used.
    """
    if is_elsewhere(compute) or compute.gpus == 0:
        return []
    visible = _visible_gpus()
    wanted = (compute.workers or len(visible)) if compute.gpus == "auto" else compute.gpus
    if not visible and compute.gpus == "auto":
        return []
    if wanted > len(visible):
        field = "compute.workers" if compute.gpus == "auto" else "compute.gpus"
        raise ConfigurationError(
            f"{field}: {wanted}, but {len(visible)} GPUs are visible, and each has one worker: lower it, or set "
            "`compute.gpus: 0` to compute on cores"
        )
    if compute.workers and compute.workers != wanted:
        raise ConfigurationError(f"compute.workers: {compute.workers}, but compute.gpus: {wanted}: give one of the two")
    if not find_spec("dask_cuda"):
        raise ConfigurationError(
            "compute.gpus: dask-cuda is not installed, which gives each worker a GPU: install the extra `gpu`, or set "
            "`compute.gpus: 0` to compute on cores"
        )
    return visible[:wanted]


def expected_workers(compute: PlaceConfig) -> int:
    """Workers that the work is dealt out to; those of a cluster may come and go, so it is as many as there may be."""
    if compute.adapt:
        return compute.adapt.maximum
    return _MOST_WORKERS if is_elsewhere(compute) else local_workers(compute)


def worker_memory(compute: PlaceConfig) -> int | None:
    """Bytes that a local worker may use; None for a cluster that is not ours to say."""
    if is_elsewhere(compute):
        return None
    if compute.memory_per_worker:
        return int(dask.utils.parse_bytes(compute.memory_per_worker))
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT) // local_workers(compute)


def place_of(compute: PlaceConfig) -> Place:
    """Say what a plan is reckoned with: the workers, and what each has."""
    workers = local_workers(compute)
    return Place(workers, max(1, CPU_COUNT // workers), worker_memory(compute), is_elsewhere(compute))


def begin_workers(compute: PlaceConfig) -> bool:
    """Start the process that workers are forked from, if it is not there and they are forked; tell whether they are.

    Those of GPUs are not: a process that has looked for GPUs cannot be forked.
    """
    if is_elsewhere(compute) or gpus(compute) or not forked.can_begin():
        return False
    forked.begin()
    return True


def task_runner(compute: PlaceConfig, performance: Path | None = None) -> Any:
    """Make the Prefect task runner; the cluster starts when it is entered.

    Parameters
    ----------
    performance
        Where Dask's performance report is written at the end; None: nowhere.
    """
    from prefect_dask import DaskTaskRunner

    path = str(performance) if performance else None
    if compute.scheduler:
        return DaskTaskRunner(address=compute.scheduler, performance_report_path=path)
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": _DEATHS_ALLOWED,
            "distributed.scheduler.worker-ttl": _SILENCE_ALLOWED,
            "distributed.scheduler.worker-saturation": 1.0,  # a task that waits at a worker is lost to the others
            "distributed.worker.profile.enabled": compute.performance_report,
            **_SELDOM,
        }
    )
    if compute.cluster:
        return DaskTaskRunner(
            cluster_class=starter(compute.cluster, _closed_to_others()),
            adapt_kwargs=compute.adapt.model_dump() if compute.adapt else None,
            performance_report_path=path,
        )
    workers, devices = local_workers(compute), gpus(compute)
    dask.config.set({"distributed.nanny.pre-spawn-environ": forked.worker_environment(CPU_COUNT // workers or 1)})
    are_forked = begin_workers(compute)
    if are_forked:
        preload = dict.fromkeys([*dask.config.get("distributed.worker.preload"), forked.__name__])
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
        dask.config.set({"distributed.worker.preload": [*preload]})
    return DaskTaskRunner(
        cluster_class="dask_cuda.LocalCUDACluster" if devices else "distributed.LocalCluster",
        cluster_kwargs={
            "n_workers": workers,
            "threads_per_worker": 2,  # while one group of shards is explained, the next one is read
            "memory_limit": worker_memory(compute),
            "dashboard_address": "127.0.0.1:0",
            **_closed_to_others(),
            **({"env": {**os.environ}} if are_forked else {}),  # the process that they are forked from is older
            **({"CUDA_VISIBLE_DEVICES": devices} if devices else {}),
        },
        performance_report_path=path,
    )


def _closed_to_others() -> dict[str, Any]:
    """Arguments of a cluster on this machine that keep out its other users, who could run code as us.

    Whoever wants to talk to scheduler or workers needs the key, which is made for the run and never stored.
    """
    from distributed.security import Security

    return {"security": Security.temporary(), "protocol": "tls://", "host": "127.0.0.1"}


def _visible_gpus() -> list[str]:
    """Name the GPUs that this process may see, by index or UUID, as CUDA does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]
    return [str(index) for index in range(_gpu_count())]


def _gpu_count() -> int:
    try:
        from dask_cuda.utils import get_gpu_count
    except ImportError:  # devices are counted all the same, so that a run says what it lacks
        names = os.listdir("/dev") if os.path.isdir("/dev") else []
        return sum(name.removeprefix("nvidia").isdigit() for name in names)
    from pynvml import NVMLError

    try:
        return int(get_gpu_count())
    except NVMLError:
        return 0
