"""Numbers as readers see them: a minus is no dash, and an interval has a word between its ends."""

import math

MINUS = "\N{MINUS SIGN}"
UNKNOWN = "n/a"


def number(value: float, spec: str = ".3g", sign: str = "-") -> str:
    """Write a number by a format of Python's, with a true minus and no negative zero; what is not known is ``n/a``."""
    return UNKNOWN if math.isnan(value) else format(value, f"{sign}z{spec}").replace("-", MINUS)


def interval(low: float, high: float, spec: str = ".3f") -> str:
    """Write both ends of an interval; where there is none, say so."""
    return "no interval" if math.isnan(low) else f"{number(low, spec)} to {number(high, spec)}"


def with_interval(value: float, low: float, high: float, spec: str = ".3f") -> str:
    """Write a value with its interval."""
    return "undefined" if math.isnan(value) else f"{number(value, spec)} ({interval(low, high, spec)})"
