"""Ratings of the images of an output, as the page makes them."""

import json
import uuid
from typing import Any

from tasks.plan import manifest
from tasks.storage.location import Location
from tasks.store.template import open_store


def rating_of(output: Location, row: int, rater: str = "reader-a", **changes: Any) -> dict[str, Any]:
    """Rate the image of a row as the page does, from what any reader of the output can fetch."""
    shards = open_store(output)["shard"].values.tolist()
    commit = json.loads((output / f"commits/{shards[row]:06d}.json").read())
    return {
        "version": 1,
        "id": uuid.uuid4().hex,
        "image_id": manifest.read(output)[row].id,
        "seen": {
            "shard": shards[row],
            "row": commit["rows"][row - shards.index(shards[row])],
            "parts": [part["digest"] for part in commit["parts"].values()],
        },
        "rater": rater,
        "time": "2026-11-26T10:15:00Z",
        **changes,
    }
