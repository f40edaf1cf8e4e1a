"""Shard objects of our own, read by zarr-python."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from models.outputs import TEXT
from tasks.store.encoding import compression, decode_chunk, decode_shard, encode_chunk, encode_shard, pad


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
@pytest.mark.parametrize(
    ("shape", "shard", "chunk"),
    [
        ((8, 2, 3, 6, 5), (4, 2, 3, 6, 5), (1, 1, 1, 6, 5)),
        ((7, 1, 2, 6, 5), (4, 1, 2, 6, 5), (1, 1, 1, 6, 5)),  # a last shard with fewer images
        ((2, 2, 3, 7, 6, 5), (1, 1, 2, 3, 6, 5), (1, 1, 1, 3, 6, 5)),  # volumes cut along z and explainers
        ((7, 3), (4, 3), None),
    ],
)
def test_zarr_reads_what_was_encoded(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], shard: tuple[int, ...], chunk: tuple[int, ...] | None
) -> None:
    values = (np.random.default_rng(0).standard_normal(shape) * 100).astype(dtype)
    codec = BloscCodec(**compression(np.dtype(dtype))._asdict())
    kind: dict[str, Any] = {"chunks": chunk, "shards": shard} if chunk else {"chunks": shard}
    array = zarr.create_array(
        tmp_path / "a", shape=shape, dtype=dtype, compressors=[codec], fill_value=0, zarr_format=3, **kind
    )
    for place in product(*(range(-(-size // part)) for size, part in zip(shape, shard, strict=True))):
        within = tuple(slice(at * part, (at + 1) * part) for at, part in zip(place, shard, strict=True))
        whole = pad(values[within], shard, 0)
        path = (tmp_path / "a" / "c").joinpath(*map(str, place))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_shard(whole, chunk) if chunk else encode_chunk(whole))
    np.testing.assert_array_equal(array[...], values)
    np.testing.assert_array_equal(array[(1, *[slice(None)] * (len(shape) - 1))], values[1])


@pytest.mark.parametrize("texts", [["", "a few words", "Größe 5 µm"], ["", "", ""]])
def test_zarr_reads_texts_that_were_encoded(tmp_path: Path, texts: list[str]) -> None:
    codec = BloscCodec(**compression(TEXT)._asdict())
    array = zarr.create_array(tmp_path / "a", shape=(3,), chunks=(2,), dtype=str, compressors=[codec], zarr_format=3)
    values = np.array(texts, TEXT)
    for number, rows in enumerate((slice(0, 2), slice(2, 3))):
        data = encode_chunk(pad(values[rows], (2,), ""))
        path = tmp_path / "a" / "c" / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        assert decode_chunk(data, (2,), TEXT).tolist() == [*texts[rows], *[""] * (number == 1)]
    assert array[...].tolist() == texts


def test_some_rows_of_a_shard_are_decoded_in_the_order_in_which_they_are_asked_for() -> None:
    values = np.random.default_rng(0).standard_normal((5, 2, 3, 4)).astype(np.float32)
    data = encode_shard(values, (1, 1, 3, 4))
    np.testing.assert_array_equal(decode_shard(data, values.shape, (1, 1, 3, 4), "float32"), values)
    np.testing.assert_array_equal(
        decode_shard(data, values.shape, (1, 1, 3, 4), "float32", [3, 0, 3]), values[[3, 0, 3]]
    )


def test_a_flipped_byte_in_the_index_is_noticed(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(4, 5), chunks=(1, 5), shards=(4, 5), dtype="float32")
    array[:] = 1
    path = tmp_path / "a/c/0/0"
    codec_index_bytes = 4 * 16 + 4
    data = bytearray(encode_shard(np.ones((4, 5), np.float32), (1, 5)))
    data[-codec_index_bytes + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        array[:]
