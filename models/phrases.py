"""Phrases: numbers and lists as they stand in a sentence."""

from collections.abc import Sequence


def listed(parts: Sequence[str]) -> str:
    """Join the parts of an enumeration."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def percent(share: float) -> str:
    """Write a share in per cent; what is near an end gets a decimal, and is not rounded to that end."""
    if 0 < share < 0.0005:
        return "under 0.1 %"
    if 0.9995 <= share < 1:
        return "over 99.9 %"
    is_near_an_end = 0 < share < 0.0995 or 0.9895 <= share < 1
    return f"{100 * share:.{int(is_near_an_end)}f} %"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, which has an s where there are several."""
    return f"{number} {noun}{'s' * (number != 1)}"


def p_value(p: float) -> str:
    """Write a p as an equation."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
