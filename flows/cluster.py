"""The Dask cluster that a run's shards are explained on."""

import os
from typing import Any

import dask
import dask.utils
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.components import Component

_CLUSTERS = (
    "distributed",
    "dask_cloudprovider",
    "dask_cuda",
    "dask_gateway",
    "dask_jobqueue",
    "dask_kubernetes",
    "dask_yarn",
)
_KEEP_MEMORY = str(2**30)

_DEATHS_ALLOWED = 10
"""Of workers, on one group of shards. Each goes on where the last one was stopped, so that Dask's 3 would be few; but
what kills whoever works on it has to end."""


_MOST_WORKERS = 32
"""That a cluster of unknown size is taken to have: each then gets eight groups of shards, which is all the groups there
are (`tasks.plan.groups`)."""


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


class ComputeConfig(BaseModel):
    """Where the work is done; empty: a Dask cluster on this machine, one worker a core or a GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    workers: int | None = Field(None, ge=1, description="Number of local workers; none: one a core, or one a GPU")
    scheduler: str | None = Field(
        None, pattern="^(tcp|tls|ucx|ws|wss)://", description="Address of a running Dask scheduler instead"
    )
    cluster: Component | None = Field(
        None,
        description="Any cluster class with its arguments instead: {_target_: dask_jobqueue.SLURMCluster, cores: 8}",
    )
    adapt: Adapt | None = Field(
        None, description="Lets `cluster` grow and shrink with the work; without it, it has the workers it starts with"
    )
    memory_per_worker: str | None = Field(
        None, description="Memory limit of a local worker, e.g. 8GiB; none: its share of the machine"
    )
    batch_size: int = Field(16, ge=1, description="Images explained at once")

    @model_validator(mode="after")
    def _one_kind(self) -> "ComputeConfig":
        if self.scheduler and self.cluster:
            raise ValueError("scheduler and cluster exclude each other: give the one that is to be used")
        if self.cluster and str(self.cluster["_target_"]).partition(".")[0] not in _CLUSTERS:
            raise ValueError(
                f"`_target_: {self.cluster['_target_']}` is not allowed here: it must lie in {' or '.join(_CLUSTERS)}"
            )
        if self.adapt and not self.cluster:
            raise ValueError("adapt goes with cluster: any other has the workers that it has")
        if (self.scheduler or self.cluster) and (self.workers or self.memory_per_worker):
            raise ValueError("workers and memory_per_worker are of a local cluster: leave them out here")
        return self


def local_workers(compute: ComputeConfig) -> int:
    """Workers that a local cluster has."""
    return compute.workers or _gpus() or cores()


def expected_workers(compute: ComputeConfig) -> int:
    """Workers that the work is dealt out to; those of a cluster may come and go, so it is as many as there may be."""
    if compute.adapt:
        return compute.adapt.maximum
    return _MOST_WORKERS if compute.scheduler or compute.cluster else local_workers(compute)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_memory(compute: ComputeConfig) -> int | None:
    """Bytes that a local worker may use; None for a cluster that is not ours to say."""
    if compute.scheduler or compute.cluster:
        return None
    if compute.memory_per_worker:
        return int(dask.utils.parse_bytes(compute.memory_per_worker))
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT) // local_workers(compute)


def task_runner(compute: ComputeConfig) -> Any:
    """Make the Prefect task runner; the cluster starts when it is entered."""
    from prefect_dask import DaskTaskRunner

    if compute.scheduler:
        return DaskTaskRunner(address=compute.scheduler)
    if compute.cluster:
        arguments = dict(compute.cluster)
        return DaskTaskRunner(
            cluster_class=str(arguments.pop("_target_")),
            cluster_kwargs=arguments,
            adapt_kwargs=compute.adapt.model_dump() if compute.adapt else None,
        )
    workers = local_workers(compute)
    dask.config.set(
        {
            "distributed.nanny.pre-spawn-environ": worker_environment(cores() // workers or 1),
            "distributed.scheduler.allowed-failures": _DEATHS_ALLOWED,
        }
    )
    return DaskTaskRunner(
        cluster_class="distributed.LocalCluster",
        cluster_kwargs={
            "n_workers": workers,
            "threads_per_worker": 1,
            "memory_limit": compute.memory_per_worker or "auto",
            "dashboard_address": "127.0.0.1:0",
        },
    )


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker process that computes with `threads` threads.

    Dask's own ``MALLOC_TRIM_THRESHOLD_=65536`` gives memory back to the system after every tensor and makes torch
    1.6 times slower on a CPU; these values let malloc keep it.
    """
    return {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        "MALLOC_TRIM_THRESHOLD_": _KEEP_MEMORY,
        "MALLOC_MMAP_THRESHOLD_": _KEEP_MEMORY,
        "MALLOC_TOP_PAD_": str(2**26),
    }


def _gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()])
    return sum(name.removeprefix("nvidia").isdigit() for name in os.listdir("/dev")) if os.path.isdir("/dev") else 0
