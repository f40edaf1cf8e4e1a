"""Plots of the report, as SVG in the page, in Okabe and Ito's colours, which colour-blind people can tell apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.plain import plain
from tasks.report.evidence import CONTROLS, Curve, Family
from tasks.report.performance import GRID, Bin, ClassPerformance
from tasks.report.visualisations import Curves

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}
_STYLES = ("-", "--", "-.", ":")
ABREAST = 5
_FAR = 50
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
            axes.plot(GRID, [at.value for at in one.roc], style, color=colour, label=_said(one.name))
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


def family_plot(family: Family) -> str:
    """Draw each metric's means with their 95 % intervals; controls in grey, hollow what does not differ from them."""
    names, metrics = [explainer for explainer, _ in family.rows], len(family.columns)
    lines = -(-metrics // ABREAST)
    abreast = -(-metrics // lines)
    with _figure((2.6 * abreast + 1.2, lines * (0.26 * len(names) + 1.1))) as (figure, svg):
        grid = figure.subplots(lines, abreast, sharey=True, squeeze=False)
        for number, (axes, column) in enumerate(zip(grid.flat, family.columns, strict=False)):
            for place, (explainer, cells) in enumerate(family.rows):
                cell, colour = cells[number], "0.55" if explainer.startswith(CONTROLS) else COLOURS[0]
                axes.hlines(place, cell.low, cell.high, color=colour, alpha=0.6)
                axes.plot(cell.mean, place, "o", color=colour, markerfacecolor="white" if cell.is_chance else colour)
            axes.set_title(f"{_said(column.name)}{_ARROWS[column.better]}", fontsize=10)
            _scale(axes, [cells[number].mean for _, cells in family.rows])
        for axes in grid.flat[metrics:]:
            axes.set_axis_off()
        grid[0, 0].set_yticks(range(len(names)), [_said(name) for name in names])
        grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    return svg.getvalue()


def _said(name: str) -> str:
    """Write a name so that matplotlib takes it as it is: a dollar begins no formula, an underscore hides nothing."""
    shown = plain(name).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _scale(axes: Axes, means: Sequence[float]) -> None:
    """Make the scale logarithmic, but around 0, where a few means are so large that the others would be one dot."""
    sizes = np.abs([mean for mean in means if np.isfinite(mean)])
    if sizes.size and np.median(sizes) and sizes.max() > _FAR * np.median(sizes):
        axes.set_xscale("symlog", linthresh=np.median(sizes))
    else:
        axes.locator_params(axis="x", nbins=4)


def curve_plot(curve: Curve) -> str:
    """Draw one mean curve an explainer; controls in grey, and the level of noise dotted."""
    with _figure((5.5, max(3.6, 0.175 * len(curve.means) + 0.6))) as (figure, svg):
        axes = figure.add_subplot()
        numbers = np.arange(len(curve.points)) if curve.points.dtype.kind not in "iuf" else curve.points
        told = [name for name in curve.means if not name.startswith(CONTROLS)]
        for name, values in curve.means.items():
            place = told.index(name) if name in told else 0
            colour = COLOURS[place % len(COLOURS)] if name in told else "0.7"
            style = _STYLES[place // len(COLOURS) % len(_STYLES)]
            axes.plot(numbers, values, style, color=colour, label=_said(name))
        if curve.noise is not None:
            axes.axhline(curve.noise, color="black", linestyle=":", linewidth=2, label="pairs of noise")
        is_share = numbers is curve.points
        axes.set(xlabel="share of the image" if is_share else "layers, from the output on", ylabel=curve.name)
        if not is_share:
            axes.set_xticks(numbers, [_said(str(point)) for point in curve.points], rotation=30, ha="right")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return svg.getvalue()


def ascent_plot(curves: Curves, score: str) -> str:
    """Draw the score and each measure by the steps of an ascent, one line a start."""
    with _figure((2.1 * len(curves.values), 2.1)) as (figure, svg):
        for axes, (name, lines) in zip(figure.subplots(1, len(curves.values)), curves.values.items(), strict=True):
            for number, line in enumerate(lines):
                of_image = number >= curves.seeds
                label = ("images" if of_image else "seeds") if number in (0, curves.seeds) else None
                axes.plot(line, "--" if of_image else "-", color=COLOURS[of_image], linewidth=1, label=label)
            axes.set_title(score if name == "score" else name, fontsize=10)
            axes.set_xlabel("step", fontsize=9)
            axes.tick_params(labelsize=8)
        figure.axes[0].legend(frameon=False, fontsize=8)
    return svg.getvalue()


@contextmanager
def _plot(x: str, y: str) -> Iterator[tuple[Axes, StringIO]]:
    """Axes from 0 to 1 both ways; the picture is there after the body."""
    with _figure((4, 4)) as (figure, svg):
        axes = figure.add_subplot()
        axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        yield axes, svg


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[tuple[Figure, StringIO]]:
    svg = StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, svg
        figure.savefig(
            svg, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    whole = svg.getvalue()
    svg.seek(0)
    svg.truncate()
    svg.write(whole[whole.index("<svg") :].replace("<svg", '<svg class="plot"', 1))
