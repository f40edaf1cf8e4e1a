"""Images of a shard that are put to the network together: read, prepared, and on their way to the device."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from models.transfer import Sent
from tasks.cohort.reading import Unreadable
from tasks.cohort.sources import Find
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.shards import Shard
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.work.engines import device
from tasks.work.images import Image, read_images, stack, stack_masks, stack_records
from tasks.work.remaining import Remaining, remaining


@dataclass(frozen=True)
class ReadBatch:
    """Some images of a shard, read: each prepared, with its mask on the grid, or with the reason why not.

    Attributes
    ----------
    number
        Of the batch in the shard; None if nothing of the shard has to be computed.
    images
        By row.
    inputs
        What the network is given, on its way to the device; None if no image can be read.
    """

    remaining: Remaining
    number: int | None
    images: dict[int, Image | Unreadable]
    inputs: Sent | None
    seconds: float
    is_first: bool
    is_last: bool

    @property
    def rows(self) -> list[int]:
        return list(self.images)

    @cached_property
    def readable(self) -> dict[int, Image]:
        return {row: image for row, image in self.images.items() if not isinstance(image, Unreadable)}

    @cached_property
    def there(self) -> list[int]:
        """The row asked about in each place: one that cannot be read leaves it to another, so that the size stays."""
        readable = self.readable
        return [row if row in readable else next(iter(readable)) for row in self.images]

    @property
    def ids(self) -> list[str]:
        return [self.remaining.entries[row].id for row in self.there]

    @property
    def record(self) -> Tensor:
        return stack_records([self.readable[row] for row in self.there])

    @property
    def masks(self) -> Tensor | None:
        return stack_masks([self.readable[row].mask for row in self.there])


def read_batches(
    output: Location, plan: Plan, todo: Sequence[tuple[Shard, Commit | None]], find: Find
) -> Iterator[ReadBatch]:
    """Read what shards lack, batch by batch; what can be read is sent to the device at once."""
    preprocessing = plan.cohort.make_preprocessing()
    # Files of slides are known by their stamps, which are among the sources.
    rows = manifest.read_each(output, [shard.index for shard, _ in todo], sources=plan.cohort.slides is not None)
    for (shard, commit), entries in zip(todo, rows, strict=True):
        left = remaining(output, plan, shard, entries, commit)
        numbers = list(left.batches())
        if not numbers:
            yield ReadBatch(left, None, {}, None, 0.0, is_first=True, is_last=True)
        for number in numbers:
            began = time.perf_counter()
            own = shard.batches[number]
            read = read_images(plan, [left.entries[row] for row in own], preprocessing, find)
            batch = ReadBatch(
                left,
                number,
                dict(zip(own, read, strict=True)),
                None,
                time.perf_counter() - began,
                is_first=number == numbers[0],
                is_last=number == numbers[-1],
            )
            if readable := batch.readable:
                inputs = stack([readable[row].prepared.network_input for row in batch.there])
                batch = replace(batch, inputs=Sent(inputs, device()))
            yield batch
