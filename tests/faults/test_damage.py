"""What is damaged while nobody looks, in a whole output at once; `tests/tasks/test_verify.py` goes file by file."""

import random
from typing import Any

import pytest

from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.store.template import NAME
from tasks.upkeep.verify import repair, verify
from tests.faults.conftest import IMAGES, Measured
from tests.tasks.outputs import carry_out

DAMAGE = ("truncated", "flipped", "deleted")


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest) -> Location:
    return request.getfixturevalue("local") if request.param == "local" else request.getfixturevalue("bucket") / "out"


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


@pytest.mark.parametrize("how", DAMAGE)
def test_everything_is_damaged(
    how: str, output: Location, content: Any, explained: list[int], measured: Measured, rounds: range
) -> None:
    """All objects of some shards, and the commits of the others."""
    carry_out(content(output))
    shards = range(len(Plan.read(output).shards))
    explained.clear()
    faults = 0
    for seed in rounds:
        generator = random.Random(seed)
        chosen = set(generator.sample(shards, len(shards) // 2))
        keys = [key for commit in Commit.read(output, chosen).values() for key in commit.objects]
        for key in keys:
            damage(output / NAME / key, how, generator)
        for shard in set(shards) - chosen:
            damage(output / f"commits/{shard:06d}.json", how, generator)
        faults += len(keys) + len(shards) - len(chosen)
        found = verify(output)
        assert {one.where for one in found if one.what == "object"} == set(keys)
        assert {int(one.where) for one in found if one.what == "shard"} == set(shards) - chosen
        assert len(found) == len(keys) + len(shards) - len(chosen)
        repair(output, found)
        assert verify(output) == []
    place = "local" if output.is_local else "S3"
    work = 1 + sum(explained) / (IMAGES * len(rounds))
    measured(f"objects and commits {how} ({place}), repaired", faults, [output], work)
