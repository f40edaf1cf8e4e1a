"""Damage that comes while nobody looks, in a whole output at once; `tests/tasks/test_verify.py` goes file by file."""

import random
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import pytest

from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.store.template import NAME
from tasks.upkeep.verify import repair, verify
from tasks.work.evaluate import Evaluation
from tasks.work.fit import FitRecord
from tasks.work.results import ResultRecord
from tests.faults.conftest import FEW, SOAK, Measured
from tests.tasks.outputs import carry_out

IMAGES = FEW
DAMAGE = ("truncated", "flipped", "deleted")
ALONE = [("local", (how,)) for how in DAMAGE] if SOAK else []


@pytest.fixture
def output(where: str, request: pytest.FixtureRequest) -> Location:
    return request.getfixturevalue("local") if where == "local" else request.getfixturevalue("bucket") / "out"


def damage(location: Location, how: str, generator: random.Random) -> None:
    data = location.read()
    place = generator.randrange(len(data))
    match how:
        case "truncated":
            location.write(data[:place])
        case "flipped":
            location.write(data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :])
        case "deleted":
            location.remove()


@pytest.mark.parametrize(("where", "how"), [*ALONE, ("local", DAMAGE), ("S3", DAMAGE)])
def test_everything_is_damaged(
    where: str,
    how: tuple[str, ...],
    output: Location,
    content: Any,
    explained: list[int],
    measured: Measured,
    rounds: range,
) -> None:
    """All objects of some shards, of the artefact and of the result; then the records of these; then other commits."""
    carry_out(content(output))
    plan = Plan.read(output)
    shards = range(len(plan.shards))
    explained.clear()
    faults = 0
    for seed in rounds:
        generator = random.Random(seed)
        chosen = set(generator.sample(shards, len(shards) // 2))
        promised: dict[str, set[str]] = {"object": set(), "metric": set()}
        for shard in chosen:
            promised["object"] |= Commit.read(output, [shard])[shard].objects.keys()
            promised["metric"] |= Evaluation.read(output, [shard])[shard].objects.keys()
        promised["artefact"] = set(plan.fits[0].objects)
        promised["result"] = {*ResultRecord.read_keys(output, ["mean_maps"])["mean_maps"].delivered.objects}
        assert all(promised.values())
        faults += repaired(output, how, generator, {what: as_objects(keys) for what, keys in promised.items()})

        others = sorted(set(shards) - chosen)
        records = {
            "metric": {f"evaluations/{shard:06d}.json": f"shard {shard}" for shard in chosen},
            "artefact": {f"{FitRecord.folder}/background.json": "background"},
            "result": {f"{ResultRecord.folder}/mean_maps.json": "mean_maps"},
        }
        faults += repaired(output, how, generator, records)
        faults += repaired(output, how, generator, {"shard": {f"commits/{one:06d}.json": str(one) for one in others}})
    work = 1 + sum(explained) / (IMAGES * len(rounds))
    measured(f"objects and records {' or '.join(how)} ({where}), repaired", faults, [output], work)


def as_objects(keys: set[str]) -> dict[str, str]:
    return {f"{NAME}/{key}": key for key in keys}


def repaired(output: Location, how: Sequence[str], generator: random.Random, files: dict[str, dict[str, str]]) -> int:
    """Damage files, have just these found, and mended; return how many there were.

    Parameters
    ----------
    files
        By the kind of damage that is to be found, each file with where the damage is to be found.
    """
    kinds = cycle(generator.sample(how, len(how)))
    for own in files.values():
        for name in sorted(own):
            damage(output / name, next(kinds), generator)
    found = verify(output)
    assert {(one.what, one.where) for one in found} == {
        (what, at) for what, own in files.items() for at in own.values()
    }
    assert len(found) == sum(map(len, files.values()))
    repair(output, found)
    assert verify(output) == []
    return len(found)
