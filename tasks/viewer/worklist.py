"""The worklist: a table of all images of a finished output, which a browser reads by column and by page.

`worklist.parquet` has the images in the store's order; `rows.parquet` their ids in the order of the alphabet, each with
its row in the store, so that one is found among a million by reading a few kilobytes.
"""

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.viewer.columns import Column, Rows, columns, values

NAME, ROWS = "viewer/worklist.parquet", "viewer/rows.parquet"

_GROUP_ROWS = 2**16
_PAGE_ROWS = 2**11
"""Rows of a page, the least that a browser reads of a column: some screens full, in a few kilobytes."""

_LAYOUT: dict[str, Any] = {
    "compression": "zstd",
    "write_page_index": True,
    "max_rows_per_page": _PAGE_ROWS,
    "data_page_size": 2**30,
    "store_schema": False,  # it would repeat the names of all columns
    "write_batch_size": _PAGE_ROWS,
}


def write_worklist(output: Location) -> None:
    """Write both tables of an output that is finished, each whole or not at all."""
    plan = Plan.read(output)
    described = columns(plan)
    schema = pa.schema([column.field for column in described])
    words = [column.name for column in described if column.kind == "word" and column.name != "id"]
    sink, ids = BytesIO(), pa.chunked_array([], pa.string())
    with pq.ParquetWriter(sink, schema, use_dictionary=words, write_statistics=False, **_LAYOUT) as writer:
        for rows in _stretches(output, plan):
            arrays = [column.array(own) for column, own in zip(described, values(rows), strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), _GROUP_ROWS)
            ids = pa.chunked_array([*ids.chunks, arrays[0]])
        writer.add_key_value_metadata(_metadata(plan, described))
    (output / NAME).write(sink.getvalue())
    (output / ROWS).write(_rows_by_id(plan, ids))


def remove_worklist(output: Location) -> None:
    for name in (NAME, ROWS):
        (output / name).remove()


def _stretches(output: Location, plan: Plan) -> Iterator[Rows]:
    """Read an output by stretches of whole shards, each of a row group's size about."""
    stored, step = open_store(output), max(1, _GROUP_ROWS // plan.images_per_shard)
    shards = iter(plan.shards)
    entries = manifest.read_each(output, range(len(plan.shards)))
    while stretch := list(islice(shards, step)):
        own = [entry for group in islice(entries, len(stretch)) for entry in group]
        yield Rows(plan, own, stored.isel(image_id=slice(stretch[0].start, stretch[-1].stop)))


def _metadata(plan: Plan, described: Sequence[Column] = ()) -> dict[str, str]:
    told = {"plan_digest": plan.digest, "columns": [column.model_dump(exclude_defaults=True) for column in described]}
    return {"cohortlens": json.dumps(told)}


def _rows_by_id(plan: Plan, ids: pa.ChunkedArray) -> bytes:
    order = pc.sort_indices(ids)
    table = pa.table({"id": ids.take(order), "row": order.cast(pa.int32())})
    sink = BytesIO()
    with pq.ParquetWriter(sink, table.schema, use_dictionary=False, **_LAYOUT) as writer:
        writer.write_table(table, _GROUP_ROWS)
        writer.add_key_value_metadata(_metadata(plan))
    return sink.getvalue()
