"""The cluster classes that a configuration may name, and what it may tell them.

What runs code on a cluster, such as images, job scripts and environments, is for a site to say, in Dask's own
configuration (``DASK_CONFIG``), which no run brings along. A run names the class, and says how much and how many.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from models.components import Component, call, locate
from models.errors import ConfigurationError

_FIELD = "compute.cluster"

_HERE = ("n_workers", "threads_per_worker", "memory_limit", "processes", "dashboard_address")
_JOBS = (
    *("config_name", "n_workers", "cores", "memory", "processes", "queue", "project", "account", "walltime"),
    *("job_cpu", "job_mem", "death_timeout", "interface", "security", "job_extra_directives"),
)

ARGUMENTS = {
    "distributed.LocalCluster": _HERE,
    "dask_cuda.LocalCUDACluster": (*_HERE, "CUDA_VISIBLE_DEVICES", "device_memory_limit", "rmm_pool_size"),
    **{
        f"dask_jobqueue.{system}Cluster": (*_JOBS, *own)
        for system, own in {
            "SLURM": (),
            "PBS": ("resource_spec",),
            "SGE": ("resource_spec",),
            "LSF": ("ncpus", "mem"),
            "OAR": ("resource_spec",),
            "Moab": ("resource_spec",),
            "HTCondor": ("disk",),
        }.items()
    },
    "dask_kubernetes.operator.KubeCluster": ("name", "namespace", "n_workers", "resources"),
    "dask_gateway.GatewayCluster": (),
    "dask_yarn.YarnCluster": ("n_workers", "worker_vcores", "worker_memory", "name", "queue"),
    "dask_cloudprovider.aws.FargateCluster": ("n_workers", "worker_cpu", "worker_mem"),
    "dask_cloudprovider.aws.EC2Cluster": ("n_workers", "instance_type"),
    "dask_cloudprovider.azure.AzureVMCluster": ("n_workers", "vm_size"),
    "dask_cloudprovider.gcp.GCPCluster": ("n_workers", "machine_type", "ngpus", "gpu_type"),
}
"""By name of a class, the arguments that say how much and how many."""

_NAMESPACES = tuple(dict.fromkeys(name.partition(".")[0] for name in ARGUMENTS))
_LOCAL = ("distributed.LocalCluster", "dask_cuda.LocalCUDACluster")

_PLAIN = re.compile(r"[\w .:@+,=-]*", re.ASCII)
"""Words that mean nothing to a shell or to a URL: some arguments become lines of a job's script."""

_DIRECTIVE = re.compile(
    r"--(gres|gpus(-per-(node|task))?|exclusive|constraint|partition|qos|reservation|nodes|nodelist|exclude|ntasks"
    r"|cpus-per-task|mem(-per-(cpu|gpu))?|licenses|nice|begin)(=[\w.:@+,-]+)?",
    re.ASCII,
)
"""Directives that say what a job is given; others run commands, change users or name containers."""


def check_cluster(component: Component) -> Component:
    """Check that a cluster class may be named and told what it is told; nothing is imported.

    Raises
    ------
    ConfigurationError
        With the class or argument, and what is allowed.
    """
    target = str(component["_target_"])
    if target not in ARGUMENTS:
        raise ConfigurationError(
            f"`_target_: {target}` is not allowed here: it must lie in {' or '.join(_NAMESPACES)}, and be one of "
            f"{', '.join(ARGUMENTS)}"
        )
    for name, value in component.items():
        if name != "_target_" and name not in ARGUMENTS[target]:
            raise ConfigurationError(
                f"`_target_: {target}` with {name} is not allowed: a configuration says "
                f"{', '.join(ARGUMENTS[target]) or 'nothing more'}; say the rest in Dask's own (DASK_CONFIG)"
            )
        pattern = _DIRECTIVE if name == "job_extra_directives" else _PLAIN
        for word in _words(value):
            if not pattern.fullmatch(word):
                limits = "it may hold letters, digits and `.:@+,=-` alone" if pattern is _PLAIN else "it says no size"
                raise ConfigurationError(
                    f"`_target_: {target}` with {name}: {word!r} is not allowed: {limits}; say what is more in Dask's "
                    "own configuration (DASK_CONFIG)"
                )
    return component


def starter(component: Component, local: Mapping[str, Any]) -> Callable[..., Any]:
    """Make the function that starts a cluster.

    Parameters
    ----------
    local
        Arguments of a cluster on this machine, which keep others out of it.

    Raises
    ------
    ConfigurationError
        If there is no such cluster class; from the function, if the cluster does not start.
    """
    from distributed.deploy import Cluster

    started = locate(component, _NAMESPACES, Cluster, _FIELD)
    ours = {**local, **_shown_here(component)} if component["_target_"] in _LOCAL else {}

    def start_cluster() -> Any:
        return call({**component, **ours}, started, _FIELD)

    return start_cluster


def _shown_here(component: Component) -> dict[str, str]:
    """The dashboard's address on loopback, with the port that was asked for."""
    port = str(component.get("dashboard_address", "")).rpartition(":")[2] or "0"
    return {"dashboard_address": f"127.0.0.1:{port}"}


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)
    elif isinstance(value, str):
        yield value
