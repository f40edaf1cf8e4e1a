"""PNG and PDF: a case on one page, with its image, maps, words, flags and scores."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import xarray as xr
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from models.explainers.base import MAPS
from tasks.export.case import Case, Map
from tasks.export.format import Format
from tasks.export.names import stem
from tasks.plain import plain
from tasks.report.anatomy import View, view_of
from tasks.report.pictures import Scale, overlay, picture_of, slice_of

_WIDTH, _MARGIN, _GAP = 8.27, 0.45, 0.15
_ABREAST = 4
_LINE = 0.155
_BENEATH = 0.62
"""Inches: an A4 page's width, its margin, the gap between pictures, a line of text, and what a picture has beneath."""

_CLASSES = 5

_EDGES = (
    (0.5, 0.99, "center", "top"),
    (0.99, 0.5, "right", "center"),
    (0.5, 0.01, "center", "bottom"),
    (0.01, 0.5, "left", "center"),
)
"""Places of letters at the edges of a picture, and how the letters lie there."""

_EDGED = [Stroke(linewidth=1.2, foreground="black"), Normal()]
"""Letters can be read on black and on white."""

_DRAWN = {
    "magenta": "#FF40FF",
    "yellow": "#FFE000",
    "cyan": "#00E0FF",
    "orange": "#FF9000",
    "pink": "#FFB0C0",
    "lilac": "#B090FF",
}
"""Colours of the regions that raters drew, one after the other."""

_COLUMNS = 130
"""Characters of a line of text."""

_STYLE: Any = {"font.family": "sans-serif", "font.size": 7, "pdf.fonttype": 42, "text.parse_math": False}


class Page(Format):
    """A page of A4's width, as long as the case needs.

    The image is in grey, or in its colours, the mask is outlined in green, each region that a rater drew in a colour of
    its own, and what the network was shown in white dashes where that is not everything. Each map is laid over the
    image, with its colour bar, which has the same ends in all cases. Of a volume one slice is shown, the one that the
    report shows; where there is no mask, that with most of what raters drew.
    """

    name: ClassVar[str] = ""
    shows_drawn = True
    dots: ClassVar[int] = 150

    def write(self, case: Case, folder: Path) -> None:
        with rc_context(_STYLE):
            figure = _drawn(case)
            path = folder / f"{stem(case.id)}.{self.name}"
            figure.savefig(path, dpi=self.dots, metadata={"CreationDate": None} if self.name == "pdf" else None)


class Png(Page):
    """The page as PNG, 150 dots an inch."""

    name = "png"


class Pdf(Page):
    """The page as PDF, with its text as text."""

    name = "pdf"
    dots = 300


class _Panel(NamedTuple):
    """One picture of the page; `beneath` are lines of text, the map is None for the image itself."""

    title: str
    colours: NDArray[np.floating]
    beneath: Sequence[str]
    map: Map | None


class _Outline(NamedTuple):
    """The outline of places of one picture."""

    places: NDArray[np.bool_]
    colour: str
    style: str = "-"


class _Shown(NamedTuple):
    """The part of a case that is drawn: how it is looked at, outlines in that view, and words on drawn regions."""

    view: View
    slice: int | None
    outlines: tuple[_Outline, ...]
    drawn: str


def _drawn(case: Case) -> Figure:
    """Draw the page."""
    shown = _shown(case)
    panels = list(_panels(case, shown))
    side = (_WIDTH - 2 * _MARGIN - (_ABREAST - 1) * _GAP) / _ABREAST
    tall = min(max(side / shown.view.aspect, 0.3 * side), 2 * side)
    head, tail = _head(case), _tail(case, shown)
    beneath = _BENEATH + _LINE * max(len(panel.beneath) for panel in panels)
    rows = -(-len(panels) // _ABREAST)
    height = 2 * _MARGIN + (len(head) + len(tail) + 1) * _LINE + rows * (tall + beneath)
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    top = _text(figure, head, height - _MARGIN, bold=True)
    for first in range(0, len(panels), _ABREAST):
        for place, panel in enumerate(panels[first : first + _ABREAST]):
            box = (_MARGIN + place * (side + _GAP), top - 0.3 - tall, side, tall)
            _draw(figure, panel, shown, box)
        top -= tall + beneath
    _text(figure, tail, top - _LINE)
    return figure


def _shown(case: Case) -> _Shown:
    space = "zyx"[3 - len(case.space) :]
    affine = np.full((4, 4), np.nan) if case.affine is None else case.affine
    image = xr.Dataset(
        {"image": (("channel", *space), case.pixels), "affine": (("world", "voxel"), affine)},
        coords={"voxel": ["z", "y", "x", "1"]},
    )
    view = view_of(image)
    number = None
    drawn = [one.values for one in case.drawn]
    if view.across is not None:
        marked = case.mask
        if drawn and (marked is None or not marked.any()):
            marked = np.any(drawn, axis=0)
        if marked is not None:
            image["mask"] = (tuple(space), marked.view(np.uint8))
        if case.maps:
            image["attribution"] = (("target", "explainer", *space), case.maps[0].values[None, None])
        number = slice_of(image, 0, view.across)
    outlines = [] if case.mask is None else [_Outline(view.cut(case.mask, number), "#00E060")]
    said = [f"{title} (on no voxel of the image)" for title in case.lost]
    for one, values, colour in zip(case.drawn, drawn, cycle(_DRAWN), strict=False):
        outlines.append(_Outline(view.cut(values, number), _DRAWN[colour]))
        where = colour if outlines[-1].places.any() else "on other slices" if values.any() else "no finding"
        said.append(f"{one.title} ({where})")
    outlines += [] if case.seen.all() else [_Outline(view.cut(case.seen, number), "white", "--")]
    return _Shown(view, number, tuple(outlines), f"Regions: {'; '.join(said)}." if said else "")


def _panels(case: Case, shown: _Shown) -> Iterator[_Panel]:
    picture = picture_of(case.pixels, shown.view, shown.slice)
    yield _Panel(", ".join(filter(None, ("image", shown.view.title(shown.slice)))), picture, [], None)
    for one in case.maps:
        values = shown.view.cut(one.values, shown.slice)
        yield _Panel(one.title, overlay(picture, values, one.scale), [*one.flags, *_values_of(case, one)], one)


def _draw(figure: Figure, panel: _Panel, shown: _Shown, box: tuple[float, float, float, float]) -> None:
    left, bottom, width, height = box
    axes = _axes(figure, box)
    rows, columns = panel.colours.shape[:2]
    axes.imshow(panel.colours, aspect=columns / (rows * shown.view.aspect))
    for places, colour, style in shown.outlines:
        if places.any():
            padded = np.pad(places.astype(float), 1)
            grid = np.arange(-1, columns + 1), np.arange(-1, rows + 1)
            axes.contour(*grid, padded, levels=[0.5], colors=[colour], linestyles=[style], linewidths=0.7)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    _letters(axes, shown.view)
    figure.text(left / _WIDTH, _up(figure, bottom + height + 0.05), plain(panel.title), fontsize=7.5)
    if panel.map is not None:
        _bar(figure, panel.map.scale, (left, bottom - 0.09, width, 0.05))
    for number, line in enumerate(panel.beneath):
        figure.text(left / _WIDTH, _up(figure, bottom - 0.34 - number * _LINE), plain(line), fontsize=6, color="0.3")


def _letters(axes: Axes, view: View) -> None:
    """Write the patient's directions at the edges."""
    for letter, (x, y, across, along) in zip(view.letters or (), _EDGES, strict=False):
        axes.text(
            x, y, letter, transform=axes.transAxes, ha=across, va=along, color="white", fontsize=6, path_effects=_EDGED
        )


def _bar(figure: Figure, scale: Scale, box: tuple[float, float, float, float]) -> None:
    """Draw the colours of a map from one end to the other."""
    low, high = scale.ends
    axes = _axes(figure, box)
    axes.imshow(scale.colours(np.linspace(low, high, 256)[None]), aspect="auto", extent=(low, high, 0, 1))
    for at in sorted({low, 0.0, high}):
        align = "left" if at == low else "right" if at == high else "center"
        x = (at - low) / (high - low)
        axes.text(x, -0.3, f"{at:.2g}".replace("-", "−"), transform=axes.transAxes, ha=align, va="top", fontsize=5.5)


def _head(case: Case) -> list[str]:
    """Say whose page it is, and what the network predicts."""
    label = f", label {case.entry.label}" if case.entry.label else ""
    flags = f"flags: {', '.join(case.flags)}" if case.flags else ""
    return [*_wrapped(f"{case.id}{label}"), *_wrapped(f"predicted: {_predicted(case)}"), *_wrapped(flags)]


def _predicted(case: Case) -> str:
    """Name the likeliest classes, or the values of a regression in their order."""
    if "probability" not in case.scores:
        return ", ".join(f"{name} {_shown_number(value)}" for name, value in case.scores["logit"].items())
    likeliest = sorted(case.scores["probability"].items(), key=lambda item: -item[1])[:_CLASSES]
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in likeliest)


def _tail(case: Case, shown: _Shown) -> list[str]:
    """Say in words what there is to say, and what is not shown."""
    left_out = f"Not shown, since they are not finite: {', '.join(case.left_out)}." if case.left_out else ""
    mask = "The reference region is outlined in green." if case.mask is not None and case.mask.any() else ""
    seen = "" if case.seen.all() else "The network was shown what lies within the white dashes; maps are 0 elsewhere."
    about = "Colours have the same ends in all cases of the cohort." if case.maps else ""
    return [
        *_wrapped(case.words),
        *_wrapped(" ".join(filter(None, (left_out, mask, shown.drawn, seen, about if case.maps else "")))),
    ]


def _values_of(case: Case, one: Map) -> list[str]:
    """Write down what metrics say of a map."""
    found = []
    for name, by_target in case.scores.items():
        if one.output == MAPS and name.startswith("metric_"):
            of = by_target.get(one.target) if isinstance(by_target, dict) else None
            value = of.get(one.explainer) if isinstance(of, dict) else None
            if isinstance(value, float):
                found.append(f"{name.removeprefix('metric_').replace('_', ' ')} {_shown_number(value)}")
    return found


def _shown_number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}".replace("-", "−")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(plain(text), _COLUMNS)


def _text(figure: Figure, lines: Sequence[str], top: float, *, bold: bool = False) -> float:
    """Write lines from `top` on, in inches from the bottom, and say where they end; the first may be bold."""
    for number, line in enumerate(lines):
        weight = "bold" if bold and number == 0 else "normal"
        figure.text(_MARGIN / _WIDTH, _up(figure, top - number * _LINE), line, va="top", weight=weight, fontsize=7.5)
    return top - len(lines) * _LINE


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Make axes in a box (left, bottom, width, height), in inches."""
    left, bottom, width, height = box
    axes = figure.add_axes((left / _WIDTH, _up(figure, bottom), width / _WIDTH, _up(figure, height)))
    axes.set_axis_off()
    return axes


def _up(figure: Figure, inches: float) -> float:
    return inches / float(figure.get_figheight())
