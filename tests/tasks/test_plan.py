import math
from types import SimpleNamespace
from typing import Any

import pytest

from models.explainers.gradcam import GradCAM
from models.explainers.saliency import Saliency
from models.fits import Background
from models.targets import Predicted
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry
from tasks.cohort.pseudonyms import Key
from tasks.plan.making import make_plan
from tasks.plan.plan import Plan
from tasks.plan.planned import PlannedFit
from tasks.plan.recipe import ModelConfig, Recipe
from tasks.plan.shards import OBJECT_LIMIT, SHARD_LIMIT, groups, images_per_shard, object_rows


def plan(count: int = 100, **changes: Any) -> Plan:
    digest = changes.pop("weights_digest", "0" * 64)
    model = ModelConfig(
        network={"_target_": "a.b"},
        classes=("a", "b"),
        input_shape=(112, 96),
        weights="w.pt",
        channels=1,
        sha256=digest,
    )
    entries = changes.pop("entries", [Entry(id=f"{n}", digest=f"{n}") for n in range(count)])
    given = {"cohort": CohortConfig(source="images"), "model": model, "explainers": (Saliency(), GradCAM())}
    network: Any = SimpleNamespace(segments=changes.pop("segments", False))
    key = changes.pop("key", Key(fingerprint="0" * 16))
    return make_plan(Recipe(**given | changes), entries, network, key=key)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100, 1000, 100_000])
def test_shards_cover_every_image_once_in_order(count: int) -> None:
    found = plan(count)
    assert found.shards[0].start == 0
    assert found.images == count
    assert all(before.stop == after.start for before, after in zip(found.shards, found.shards[1:], strict=False))
    assert all(shard.stop - shard.start <= found.images_per_shard for shard in found.shards)
    assert found.shards[-1].start < count


@pytest.mark.parametrize("explainers", [1, 6, 40])
@pytest.mark.parametrize("map_bytes", [10**3, 10**5, 10**7, 10**9])
@pytest.mark.parametrize("images", [1, 200, 10_000, 10**5, 10**6])
def test_a_shard_and_its_objects_stay_under_their_limits(images: int, map_bytes: int, explainers: int) -> None:
    size = images_per_shard(images, explainers * map_bytes, map_bytes)
    assert 1 <= size <= 1024
    assert size == 1 or size * map_bytes <= OBJECT_LIMIT
    assert size == 1 or size * explainers * map_bytes <= SHARD_LIMIT
    assert size <= 256 or images / size >= 128


@pytest.mark.parametrize(
    ("images", "side", "explainers", "expected"),
    [
        (39, (112, 96), 6, 16),
        (2_000, (224, 224), 10, 32),  # few shards: many small ones end together
        (10**5, (112, 96), 10, 624),
        (10**5, (224, 224), 10, 128),
        (10**5, (96, 112, 96), 10, 6),
        (10**6, (8, 8), 1, 1024),
    ],
)
def test_objects_are_large_where_maps_are_small_and_images_many(
    images: int, side: tuple[int, ...], explainers: int, expected: int
) -> None:
    map_bytes = 4 * math.prod(side)
    assert images_per_shard(images, explainers * map_bytes, map_bytes) == expected


@pytest.mark.parametrize(
    "shape", [(1, 3, 5, 256, 256, 256), (1, 1, 5, 512, 512, 512), (16, 1, 4, 112, 96), (1, 1, 1, 600, 512, 512)]
)
def test_large_volumes_are_cut_into_objects_under_the_limit(shape: tuple[int, ...]) -> None:
    cut = object_rows(shape)
    assert math.prod(cut) * 4 <= OBJECT_LIMIT
    assert cut[-2:] == shape[-2:]
    assert all(1 <= part <= whole for part, whole in zip(cut, shape, strict=True))


@pytest.mark.parametrize(("images", "workers"), [(3, 2), (1000, 1), (1000, 4), (100_000, 64), (10, 64)])
def test_groups_are_neighbours_that_cover_every_shard_once(images: int, workers: int) -> None:
    found = plan(images)
    dealt = groups(range(len(found.shards)), workers)
    assert [index for group in dealt for index in group] == [shard.index for shard in found.shards]
    assert len(dealt) <= 256
    assert len(dealt) >= min(len(found.shards), 4 * workers, 128)


@pytest.mark.parametrize(("shards", "workers"), [(24, 2), (400, 2), (2000, 32), (100_000, 64)])
def test_groups_get_smaller_so_that_workers_end_together(shards: int, workers: int) -> None:
    """Each worker takes the next group when it is done: none is left waiting for long, whatever the number."""
    sizes = [*map(len, groups(range(shards), workers))]
    assert len(sizes) <= 256
    assert sizes == sorted(sizes, reverse=True)
    busy = [0] * workers
    for size in sizes:
        busy[busy.index(min(busy))] += size
    assert max(busy) - min(busy) <= max(1, shards // 1000)


def test_the_digest_changes_with_all_that_decides_the_result_and_nothing_else() -> None:
    base = plan()
    assert plan().digest == base.digest
    other = [Entry(id=f"{n}", digest="x" if n == 50 else f"{n}") for n in range(100)]
    changed = plan(entries=other)
    assert [a.index for a, b in zip(base.shards, changed.shards, strict=True) if a.digest != b.digest] == [3]
    for different in (
        changed,
        plan(weights_digest="1" * 64),
        plan(explainers=(Saliency(),)),
        plan(explainers=(Saliency(), GradCAM(layer="x"))),
        plan(target=Predicted(k=2)),
        plan(batch_size=8),
        plan(cohort=CohortConfig(source="images", window="file")),
        plan(segments=True),
        base.model_copy(update={"fits": (PlannedFit(fit=Background(), outputs=(), images=("1",), digest=""),)}),
    ):
        assert different.digest != base.digest
    assert base.model_copy(update={"versions": {}}).digest == base.digest


def test_a_plan_survives_the_way_through_json() -> None:
    assert Plan.model_validate_json(plan().model_dump_json()) == plan()
