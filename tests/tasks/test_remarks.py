"""Remarks: every flag has a meaning and a remedy."""

import numpy as np
import pytest

from models.flags import ImageFlag, MapFlag
from models.outputs import flags_of
from tasks.report.agreement import Others
from tasks.report.remarks import remarks_on, remarks_on_borders
from tasks.store.flags import raised

FLAGS = [
    name
    for of, kind in (("image_flags", ImageFlag), ("map_flags", MapFlag))
    for name in raised(of, flags_of(kind), np.zeros((1, 1), np.uint8))
]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_says_what_it_means_and_what_to_do(flag: str) -> None:
    (remark,) = remarks_on({flag: 3, "never": 0})
    assert (remark.seen, remark.images) == (flag, 3)
    assert "producer" not in remark.remedy and min(len(remark.meaning), len(remark.remedy)) > 20


def test_the_most_frequent_come_first_and_foreign_flags_are_shown() -> None:
    assert [one.seen for one in remarks_on({"own odd": 1, "map blank": 4, "image constant": 1})] == [
        "map blank",
        "image constant",
        "own odd",
    ]


@pytest.mark.parametrize(("bars", "remarked"), [(3, False), (4, True), (6, True)])
def test_a_border_is_remarked_on_if_the_same_side_is_marked_in_most_images(bars: int, remarked: bool) -> None:
    on_border = np.ones((6, 2, 4))
    on_border[:bars, 1, 2] = 5
    on_border[:, 0] = np.eye(6, 4) * 5  # each on another side
    others = Others(("a", "b"), np.array([""] * 6), np.empty(0), on_border)
    found = remarks_on_borders(others)
    assert [(one.seen, one.images) for one in found] == [("b marks the border", bars)] * remarked
    assert remarks_on_borders(None) == []
