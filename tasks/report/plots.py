"""Plots of the report, as SVG in the page, in Okabe and Ito's colours, which colour-blind people can tell apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.report.performance import GRID, Bin, ClassPerformance

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, to be read aloud and searched
    "svg.hashsalt": "cohortlens",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def roc_plot(classes: Sequence[ClassPerformance]) -> str:
    """Draw one ROC curve a class with its 95 % band."""
    with _plot("false positive rate", "true positive rate") as (axes, svg):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for number, one in enumerate(classes):
            colour = COLOURS[number % len(COLOURS)]
            style = _STYLES[number // len(COLOURS) % len(_STYLES)]
            axes.fill_between(GRID, [at.low for at in one.roc], [at.high for at in one.roc], color=colour, alpha=0.15)
            axes.plot(GRID, [at.value for at in one.roc], style, color=colour, label=one.name)
        axes.legend(loc="lower right", frameon=False)
    return svg.getvalue()


def calibration_plot(bins: Sequence[Bin]) -> str:
    """Draw how often predictions of a probability come true, with 95 % intervals; larger dots are of more of them."""
    with _plot("predicted probability", "share that comes true") as (axes, svg):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        x, shares = [one.probability for one in bins], [one.share for one in bins]
        axes.vlines(x, [share.low for share in shares], [share.high for share in shares], color=COLOURS[0], alpha=0.6)
        axes.plot(x, [share.value for share in shares], color=COLOURS[0], linewidth=1)
        sizes = np.sqrt([one.count for one in bins])
        axes.scatter(x, [share.value for share in shares], 100 * sizes / sizes.max(), color=COLOURS[0])
    return svg.getvalue()


@contextmanager
def _plot(x: str, y: str) -> Iterator[tuple[Axes, StringIO]]:
    """Axes from 0 to 1 both ways; the picture is there after the body."""
    svg = StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(4, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        yield axes, svg
        figure.savefig(
            svg, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    whole = svg.getvalue()
    svg.seek(0)
    svg.truncate()
    svg.write(whole[whole.index("<svg") :])
