import numpy as np
import pytest

from tasks.report.numbers import interval, number, with_interval


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5, 0.25, 0.75), "0.500 (0.250 to 0.750)"),
        ((-0.104, -0.108, -0.1), "−0.104 (−0.108 to −0.100)"),
        ((-0.0001, -0.002, 0.001), "0.000 (−0.002 to 0.001)"),
        ((0.5, np.nan, np.nan), "0.500 (no interval)"),
        ((np.nan, np.nan, np.nan), "undefined"),
    ],
)
def test_a_minus_cannot_be_taken_for_a_dash(numbers: tuple[float, float, float], text: str) -> None:
    assert with_interval(*numbers) == text
    assert interval(*numbers[1:]) in text or text == "undefined"


def test_numbers_have_a_true_minus_also_in_their_exponent() -> None:
    assert number(-2.5e-7) == "−2.5e−07"
    assert number(np.nan) == "n/a"
    assert [number(value, ".2g", sign="+") for value in (-0.5, 0.5, -0.0)] == ["−0.5", "+0.5", "+0"]
