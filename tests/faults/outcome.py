"""The remains of a run, held against what the undisturbed one left."""

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.storage.location import Location
from tasks.store import template
from tasks.store.template import EXPLAINED
from tasks.work.fit import FitRecord
from tasks.work.results import ResultRecord
from tests.tasks.outputs import stored


@dataclass(frozen=True)
class Expected:
    """The undisturbed run's store, and its records of artefacts and results: every byte by key.

    Commits and evaluations, which say how long the work took, are not compared.

    Attributes
    ----------
    status
        The status code of each image.
    """

    objects: dict[str, bytes]
    status: NDArray[np.int8]

    @classmethod
    def read(cls, output: Location) -> "Expected":
        objects = {key: _without_run(key, data) for key, data in stored(output).items()}
        for folder in (FitRecord.folder, ResultRecord.folder):
            objects |= {f"{folder}/{name}": (output / folder / name).read() for name in (output / folder).names()}
        return cls(objects, template.open_store(output).status.values)


def compare(output: Location, expected: Expected) -> tuple[int, int]:
    """Count images that are explained in the undisturbed run alone, and bytes that are not the same."""
    found = Expected.read(output)
    status = np.zeros_like(expected.status)
    status[: len(found.status)] = found.status[: len(status)]
    lost = int(((expected.status == EXPLAINED) & (status != EXPLAINED)).sum())
    keys = found.objects.keys() | expected.objects.keys()
    return lost, sum(_differing(found.objects.get(key, b""), expected.objects.get(key, b"")) for key in keys)


def _differing(one: bytes, other: bytes) -> int:
    return abs(len(one) - len(other)) + sum(a != b for a, b in zip(one, other, strict=False)) if one != other else 0


def _without_run(key: str, data: bytes) -> bytes:
    """Leave out of the root's metadata which run it was, and the plan's digest, which depends on places, too."""
    if key != "zarr.json":
        return data
    content = json.loads(data)
    for name in ("run_id", "plan_digest"):
        content["attributes"].pop(name)
    return json.dumps(content).encode()
