import numpy as np

from tasks.store.flags import raised


def test_flags_are_told_in_words_row_by_row() -> None:
    maps = np.zeros((4, 2, 3), np.uint8)
    maps[1, 0, 2] = 1
    maps[2, 1, 1] = 3
    found = raised({"image_flags": np.array([0, 1, 6, 4], np.uint8), "map_flags": maps, "logit": np.ones((4, 2))})
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "image constant": [False, True, False, False],
        "image not finite": [False, False, True, False],
        "image saturated": [False, False, True, True],
        "map blank": [False, True, True, False],
        "map not finite": [False, False, True, False],
        "map no source": [False, False, False, False],
    }


def test_a_store_without_maps_has_no_flags_of_maps() -> None:
    assert list(raised({"image_flags": np.zeros(3, np.uint8)})) == [
        "image constant",
        "image not finite",
        "image saturated",
    ]
