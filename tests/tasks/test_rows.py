"""Rows that are encoded as they come make the objects that the whole array makes."""

from itertools import product

import numpy as np
import pytest

from models.outputs import Output
from tasks.store.encoding import encode_shard, pad
from tasks.store.rows import EncodedRows, round_mantissa
from tasks.store.variables import Variable

ROWS = 4


@pytest.mark.parametrize("mantissa", [None, 7])
@pytest.mark.parametrize(
    ("shape", "sides", "chunk"),
    [
        ((1, 3, 6, 5), (1, 1, 6, 5), (1, 1, 6, 5)),
        ((2, 2, 6, 5), (2, 2, 6, 5), (1, 1, 6, 5)),
        ((1, 5, 6, 5), (1, 2, 6, 5), (1, 1, 6, 5)),  # a last object with fewer channels
        ((1, 1, 7, 6, 5), (1, 1, 3, 6, 5), (1, 1, 3, 6, 5)),  # volumes cut along z
    ],
)
def test_objects_are_those_of_the_whole_array(
    shape: tuple[int, ...], sides: tuple[int, ...], chunk: tuple[int, ...], mantissa: int | None
) -> None:
    output = Output(name="a", dims=("image_id", *"tezyx"[-len(shape) :]), kind="map", long_name="a", mantissa=mantissa)
    whole = np.random.default_rng(0).standard_normal((ROWS, *shape)).astype(np.float32)
    whole[2] = np.nan
    rows, again = (EncodedRows(Variable(output, shape), (ROWS, *sides), (1, *chunk)) for _ in range(2))
    for row in (3, 0, 1):  # nothing is found of one
        rows[row] = whole[row]
    for place in product(*(range(-(-size // side)) for size, side in zip(shape, sides, strict=True))):
        within = (
            slice(None),
            *(slice(at * side, min((at + 1) * side, size)) for at, side, size in zip(place, sides, shape, strict=True)),
        )
        values = whole[within] if mantissa is None else round_mantissa(whole[within], mantissa)
        expected = encode_shard(pad(values, (ROWS, *sides), np.nan), (1, *chunk))
        assert rows.object(within) == expected
        again.take({0, 1}, within, expected)
        again[3] = whole[3]
        assert again.object(within) == expected
