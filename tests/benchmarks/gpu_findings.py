"""The findings of `make bench-gpu`, and the section of docs/gpu.md that is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

PAGE = Path(__file__).resolve().parents[2] / "docs/gpu.md"
BEGIN, END = "<!-- made by `make bench-gpu` -->", "<!-- end of what `make bench-gpu` makes -->"

LOOP_GOAL, CAPTUM_GOAL, BUSY_GOAL = 10.0, 2.0, 0.9


@dataclass(frozen=True)
class Card:
    """The GPU, and what it was used by."""

    name: str
    memory_gib: float
    driver: str
    cuda: str
    torch: str


@dataclass(frozen=True)
class Method:
    """Milliseconds an image: ours, Captum's at its best batch, and Captum's with one image and one pass at a time.

    `error` is the relative L2 between our maps and Captum's, the median over images; None where noise differs.
    """

    name: str
    ours: float
    captum: float
    loop: float
    our_batch: int
    captum_batch: int
    error: float | None


@dataclass(frozen=True)
class Flow:
    """The real flow with dask-cuda on one GPU.

    Attributes
    ----------
    pace
        Images a second, the slope between a short and a long run.
    start
        Seconds of the short run that the pace does not explain.
    busy
        Share of the time, from the first kernel to the last of the long run, in which the GPU ran one.
    """

    images: int
    explainers: tuple[str, ...]
    pace: float
    start: float
    busy: float


@dataclass(frozen=True)
class Rounded:
    """A precision beside fp32 without TF32.

    Attributes
    ----------
    faster
        Times that it is faster.
    agreement
        By explainer, medians over maps of relative L2 and of Spearman's rank correlation.
    """

    precision: str
    faster: float
    agreement: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Halving:
    """A batch that did not fit what was left of the memory; `error` is the relative L2 to maps made with all of it."""

    batch: int
    left_mib: float
    halvings: int
    fits: int
    error: float


@dataclass(frozen=True)
class Copies:
    """Copies to the GPU: GB a second, and milliseconds a batch of passes alone and with copies."""

    pageable: float
    pinned: float
    alone: float
    in_line: float
    ahead: float


@dataclass(frozen=True)
class Noise:
    """Noise drawn on the device: whether its bits are the processor's, and microseconds a draw of 224 x 224."""

    equal: bool
    device: float
    processor: float


@dataclass(frozen=True)
class Findings:
    """All that is measured on one card."""

    card: Card
    flow: Flow
    methods: tuple[Method, ...]
    rounded: tuple[Rounded, ...]
    halving: Halving
    copies: Copies
    noise: Noise


def section(findings: Findings) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    goals = {"loop_goal": LOOP_GOAL, "captum_goal": CAPTUM_GOAL, "busy_goal": BUSY_GOAL}
    return environment.get_template("gpu.md.j2").render(found=findings, short=shortfalls(findings), **goals)


def shortfalls(findings: Findings) -> list[str]:
    """Name what misses its goal."""
    told = []
    for one in findings.methods:
        for whose, ratio, goal in (("a loop", one.loop, LOOP_GOAL), ("Captum", one.captum, CAPTUM_GOAL)):
            if ratio / one.ours < goal:
                told.append(
                    f"{one.name} is {ratio / one.ours:.1f} times as fast as {whose}, where the goal is {goal:g}"
                )
    if findings.flow.busy < BUSY_GOAL:
        told.append(f"the GPU is busy for {findings.flow.busy:.0%} of the time, where the goal is {BUSY_GOAL:.0%}")
    if not findings.halving.halvings:
        told.append("no batch was halved: memory did not run out, so that this was not tried")
    if not findings.noise.equal:
        told.append("noise that is drawn on the GPU differs from that of a processor")
    return told


def write_section(findings: Findings, page: Path = PAGE) -> None:
    """Put the section in the place of the one before, between its marks.

    Raises
    ------
    ValueError
        If the page lacks the marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page.name} has no lines {BEGIN!r} and {END!r}: put them where the section belongs")
    page.write_text(f"{before}{BEGIN}\n\n{section(findings)}\n{END}{after}")
