"""Counters of a process's work, for Prometheus and for the account of a run.

Dask's workers serve the default registry, and so these beside their own metrics, at ``/metrics`` of their dashboard's
port. A process counts from its start, whatever it works for.
"""

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from prometheus_client import Counter

IMAGES = Counter("cohortlens_images", "Images that were delivered, by what became of them", ["status"])
SECONDS = Counter("cohortlens_stage_seconds", "Seconds spent, by stage; stages overlap", ["stage"])
STORED = Counter("cohortlens_stored_bytes", "Bytes of objects that shards delivered")
REQUESTS = Counter("cohortlens_s3_requests", "Requests sent to S3, repeated ones too, by operation", ["operation"])
RETRIES = Counter("cohortlens_s3_retries", "Requests to S3 that repeat one that was not answered well")
HALVINGS = Counter("cohortlens_batch_halvings", "Batches that were halved since memory ran out")

_PUTS = ("PutObject", "CopyObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "ListObjectsV2")
_FREE = ("DeleteObject", "DeleteObjects", "AbortMultipartUpload")
_STARTED = time.time()


@dataclass(frozen=True)
class Reading:
    """The counters of a process at a moment.

    Attributes
    ----------
    process
        Whose it is, among those of all hosts.
    moment
        In seconds, on the process's own clock.
    gpus, cores
        That it computes with: one GPU, or some cores.
    puts, gets
        S3 requests in the two classes that are paid for; what deletes is free.
    """

    process: str
    moment: float
    gpus: int
    cores: int
    puts: int
    gets: int


@dataclass(frozen=True)
class Spent:
    """Time and requests that processes spent between their first and their last reading.

    Attributes
    ----------
    gpu_seconds, cpu_seconds
        Of GPUs and cores that were held, busy or not: that is what is paid for.
    """

    gpu_seconds: float
    cpu_seconds: float
    puts: int
    gets: int


def read() -> Reading:
    """Read this process's counters."""
    by_operation = {
        sample.labels["operation"]: int(sample.value)
        for metric in REQUESTS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    puts = sum(by_operation.get(operation, 0) for operation in _PUTS)
    has_gpu = torch.cuda.is_available()
    return Reading(
        process=f"{socket.gethostname()} {os.getpid()} {_STARTED}",
        moment=time.monotonic(),
        gpus=int(has_gpu),
        cores=0 if has_gpu else torch.get_num_threads(),
        puts=puts,
        gets=sum(by_operation.values()) - puts - sum(by_operation.get(operation, 0) for operation in _FREE),
    )


def spent(workers: Iterable[Reading], flow: Iterable[Reading] = ()) -> Spent:
    """Add up what processes spent.

    Parameters
    ----------
    workers
        Readings of some processes, more than one of each, in any order.
    flow
        The same of a process that waits for them: only what it asks of S3 counts.
    """
    computing, asking = _ends(workers), _ends(flow)
    return Spent(
        gpu_seconds=sum((last.moment - first.moment) * last.gpus for first, last in computing),
        cpu_seconds=sum((last.moment - first.moment) * last.cores for first, last in computing),
        puts=sum(last.puts - first.puts for first, last in computing + asking),
        gets=sum(last.gets - first.gets for first, last in computing + asking),
    )


def _ends(readings: Iterable[Reading]) -> list[tuple[Reading, Reading]]:
    """The first and the last reading of each process."""
    by_process: dict[str, list[Reading]] = {}
    for reading in sorted(readings, key=lambda reading: reading.moment):
        by_process.setdefault(reading.process, []).append(reading)
    return [(own[0], own[-1]) for own in by_process.values()]
