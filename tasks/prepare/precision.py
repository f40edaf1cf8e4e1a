"""The check of bf16: a run may compute in it only if its maps agree with those of fp32."""

from collections.abc import Callable, Sequence

from models.engine import Engine
from models.errors import ConfigurationError
from models.precision import LEAST_RANK_CORRELATION, MOST_RELATIVE_L2, Deviation, deviation
from tasks.cohort.entry import Entry
from tasks.cohort.reading import Unreadable
from tasks.cohort.sources import Find
from tasks.plan.plan import Plan
from tasks.work.images import read_images, stack, stack_masks, stack_records


def check_deviation(
    plan: Plan, entries: Sequence[Entry], engine: Callable[[], Engine], find: Find
) -> dict[str, Deviation]:
    """Explain the first batch of a plan in fp32 and in bf16, and compare.

    Parameters
    ----------
    engine
        Makes engines of the network in bf16; each of the two explanations has one that knows nothing of the other.

    Raises
    ------
    ConfigurationError
        If the maps of an explainer differ by more than the bounds of `models.precision`.
    """
    batch = next((batch for shard in plan.shards for batch in shard.batches), ())
    chosen = [entries[row] for row in batch]
    images = read_images(plan, chosen, plan.cohort.make_preprocessing(), find)
    there = [(entry.id, one) for entry, one in zip(chosen, images, strict=True) if not isinstance(one, Unreadable)]
    if not there:
        raise ConfigurationError("precision: none of the first images can be read, so that bf16 cannot be checked")
    ids = [id for id, _ in there]
    inputs = stack([image.prepared.network_input for _, image in there])
    masks = stack_masks([image.mask for _, image in there])
    record = stack_records([image for _, image in there])
    rounded = engine().explain(inputs, ids, masks, record)
    exactly = engine()
    with exactly.network.exact():
        exact = exactly.explain(inputs, ids, masks, record)
    found = deviation(exact, rounded, plan.maps)
    if apart := {name: one for name, one in found.items() if not one.suffices}:
        named = "; ".join(
            f"{name}: rank correlation {one.rank_correlation:.3f}, relative L2 {one.relative_l2:.3f}"
            for name, one in apart.items()
        )
        raise ConfigurationError(
            f"precision: in the first batch, bf16 differs from fp32 by more than is allowed (rank correlation "
            f"at least {LEAST_RANK_CORRELATION}, relative L2 at most {MOST_RELATIVE_L2}, medians): {named}. Set fp32, "
            "or leave these explainers out"
        )
    return found
