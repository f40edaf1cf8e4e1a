"""The table of faults at the end of a test run; its hook is in the outermost conftest, for xdist's controller."""

from typing import Any, NamedTuple

PROPERTY = "fault"
_HEADER = ("case", "faults", "survived", "images lost", "bytes differing", "extra work")


class Outcome(NamedTuple):
    """A row of the table; `extra` is the work that was done in vain, as a share of the work."""

    case: str
    faults: int
    survived: int
    lost: int
    differing: int
    extra: float

    def shown(self) -> tuple[str, ...]:
        counts = (self.faults, self.survived, self.lost, self.differing)
        return (self.case, *map(str, counts), f"{self.extra:+.1%}" if self.extra == self.extra else "—")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found]
    rows = [
        Outcome(*value)
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == PROPERTY and report.when == "call"
    ]
    if not rows:
        return
    table = [_HEADER, *(row.shown() for row in sorted(rows))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    terminalreporter.section("faults")
    for row in table:
        right = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        terminalreporter.line("  ".join([row[0].ljust(widths[0]), *right[1:]]))
