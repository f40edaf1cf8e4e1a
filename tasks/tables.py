"""Tables that are handed around as CSV."""

import pandas as pd

from tasks.plain import plain


def as_csv(table: pd.DataFrame) -> bytes:
    """Write a table, with its index, as plain CSV; what a spreadsheet would take for a formula begins with an
    apostrophe.
    """
    flat = table.reset_index()
    for name in flat.columns:
        if not pd.api.types.is_numeric_dtype(flat[name]):
            flat[name] = flat[name].map(_no_formula)
    return flat.to_csv(index=False, lineterminator="\n").encode()


def _no_formula(text: str) -> str:
    shown = plain(text)  # a tab or a line's end would begin a new cell
    if not shown.startswith(("=", "+", "-", "@")):
        return shown
    try:
        float(shown)
    except ValueError:
        return f"'{shown}"
    return shown
