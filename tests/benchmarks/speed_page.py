"""The page docs/speed.md, with its plots, made of what was recorded: `python -m tests.benchmarks.speed_page`."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from tests.benchmarks.modules import MODULES
from tests.benchmarks.peers_record import RECORDED as PEERS
from tests.benchmarks.peers_record import Line, Peers
from tests.benchmarks.ratios import FALL, Curve, Ratio
from tests.benchmarks.record import RECORDED, Record

_IN_A_ROW = 4
PAGE = Path(__file__).resolve().parents[2] / "docs/speed.md"
_SVG = {"svg.hashsalt": "speed", "svg.fonttype": "none", "font.size": 9}
"""Equal records make equal files, which stay small: text is text."""


def write_page(record: Record, page: Path = PAGE) -> None:
    """Write the page, and its plots beside it."""
    peers = Peers.read(PEERS)
    page.write_text(page_of(record, peers))
    with mpl.rc_context(_SVG):
        for module, measured in record.modules.items():
            if measured.curves:
                _save(error_against_questions(measured.curves), page.with_name(f"speed-{module}.svg"))
        if peers:
            _save(bars(peers.lines), page.with_name("speed-peers.svg"))


def page_of(record: Record, peers: Peers | None) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"table": ratio_table, "peers": peer_table, "number": _number, "percent": _percent}
    short = [line for measured in record.modules.values() for line in measured.ratios if not line.reaches_goal]
    return environment.get_template("speed.md.j2").render(
        record=record,
        peers=peers,
        titles=MODULES,
        fall=FALL,
        curves={name: MODULES[name] for name, measured in record.modules.items() if measured.curves},
        short=short,
        slower=[f"{line.title} ({line.ratio:.2f})" for line in peers.lines if line.ratio < 1] if peers else [],
    )


def ratio_table(lines: Sequence[Ratio]) -> str:
    rows = [
        (
            line.name,
            _number(line.ratio),
            "" if line.goal is None else f"{'≥' if line.better == 'higher' else '≤'} {_number(line.goal)}",
            "" if line.error is None else f"{line.error:.1e}",
            line.note,
        )
        for line in lines
    ]
    return _markdown(("ratio", "is", "goal", "error", ""), "lrrrl", rows)


def peer_table(lines: Sequence[Line]) -> str:
    rows = [
        (
            line.title,
            f"{line.theirs_ms:.1f}",
            f"{line.ours_ms:.1f}",
            _number(line.ratio),
            f"{line.relative_l2:.1e}",
            f"{line.correlation:.3f}",
            "; ".join(filter(None, [f"theirs {line.their_setting}, ours {line.our_setting}", line.note])),
        )
        for line in lines
    ]
    heads = ("package, method", "theirs, ms", "ours, ms", "theirs / ours", "relative L2", "correlation", "")
    return _markdown(heads, "lrrrrrl", rows)


def error_against_questions(curves: Sequence[Curve]) -> Figure:
    """Draw one panel a network, one line a method."""
    panels = [(network, list(group)) for network, group in groupby(curves, lambda curve: curve.network)]
    rows = -(-len(panels) // _IN_A_ROW)
    columns = -(-len(panels) // rows)
    figure = Figure(figsize=(3.4 * columns + 0.6, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, (network, group) in zip(axes[: len(panels)], panels, strict=True):
        for curve, marker in zip(group, "osD^vPX*"[: len(group)] or "o", strict=True):
            axis.loglog(curve.questions, curve.error, marker=marker, markersize=4, label=curve.method)
        axis.set(title=network, xlabel="questions an image")
        axis.grid(visible=True, which="both", linewidth=0.3)
        axis.legend()
    figure.supylabel("relative L2 to the reference")
    return figure


def bars(lines: Sequence[Line]) -> Figure:
    """Draw how many times faster we are than each package, by method."""
    figure = Figure(figsize=(7, 0.6 + 0.24 * len(lines)), layout="constrained")
    axis = figure.subplots()
    packages = list(dict.fromkeys(line.package for line in lines))
    colours = [f"C{packages.index(line.package)}" for line in lines]
    shown = axis.barh([line.title for line in lines], [line.ratio for line in lines], color=colours)
    axis.bar_label(shown, [f"{line.ratio:.1f}" for line in lines], padding=3)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel("their CPU seconds over ours")
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


def _number(value: float) -> str:
    return f"{value:.3g}" if value >= 100 else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _markdown(heads: Sequence[str], sides: str, rows: Sequence[Sequence[str]]) -> str:
    rules = ["---:" if side == "r" else "---" for side in sides]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rules, *rows])


if __name__ == "__main__":
    write_page(Record.read(RECORDED))
