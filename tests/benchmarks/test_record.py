"""Results of `make bench` from measured lines: falls, exit codes, the page."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks import modules, speed_page
from tests.benchmarks.peers_record import Line, Peers
from tests.benchmarks.ratios import Curve, Measured, Ratio
from tests.benchmarks.record import RECORDED, Machine, Record

HERE = Machine("a processor", 2, "2.13.0")
FASTER = Ratio("eight / Captum", 2.0, 1.5, 0.01)
CHEAPER = Ratio("one pass / bare", 1.0, 1.1, better="lower")


def record(*lines: Ratio, **curves: tuple[Curve, ...]) -> Record:
    return Record(HERE, {"explainers": Measured(lines)} | {name: Measured((), own) for name, own in curves.items()})


@pytest.mark.parametrize(
    ("recorded", "measured", "falls"),
    [
        (FASTER, 1.71, False),
        (FASTER, 1.69, True),
        (FASTER, 5.0, False),
        (CHEAPER, 1.17, False),
        (CHEAPER, 1.18, True),
        (CHEAPER, 0.2, False),
    ],
)
def test_a_ratio_falls_if_it_loses_more_than_15_percent(recorded: Ratio, measured: float, falls: bool) -> None:
    line = Ratio(recorded.name, measured, recorded.goal, recorded.error, recorded.better)
    told = record(recorded).falls({"explainers": Measured((line,))})
    assert bool(told) == falls
    if falls:
        assert told["explainers"][0].startswith(recorded.name) and f"{measured:.2f}" in told["explainers"][0]


@pytest.mark.parametrize(("error", "falls"), [(0.019, False), (0.021, True), (math.nan, True)])
def test_a_ratio_at_twice_the_error_falls(error: float, falls: bool) -> None:
    line = Ratio(FASTER.name, 9.0, FASTER.goal, error)
    assert bool(record(FASTER).falls({"explainers": Measured((line,))})) == falls


def test_rounding_is_no_error() -> None:
    before, after = (Ratio("same work", 1.0, None, error) for error in (1e-7, 9e-4))
    assert not record(before).falls({"explainers": Measured((after,))})


def test_a_line_that_is_not_measured_any_more_falls_and_a_new_one_does_not() -> None:
    told = record(FASTER).falls({"explainers": Measured((CHEAPER,)), "windows": Measured((FASTER,))})
    assert told == {"explainers": [f"{FASTER.name}: recorded, and not measured any more"]}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = record(FASTER, CHEAPER, windows=(Curve("demo", "ours", (8, 16), (0.1, 0.01)),))
    written.write(tmp_path / "recorded.json")
    assert Record.read(tmp_path / "recorded.json") == written


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A module that measures nothing; the record is a file of the test's."""
    module = ModuleType("tests.benchmarks.fake")
    module.ratios = lambda: iter([FASTER])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(bench, "MODULES", {"fake": "Fake"})
    monkeypatch.setattr(bench, "measure", modules.measure)
    monkeypatch.setattr(bench, "RECORDED", tmp_path / "recorded.json")
    monkeypatch.setattr(bench, "write_page", lambda record: None)
    return module


def test_what_was_recorded_is_held_against(fake: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--record"]) == 0
    assert bench.main([]) == 0
    assert "reached" in capsys.readouterr().out
    fake.ratios = lambda: iter([Ratio(FASTER.name, 1.6, FASTER.goal)])  # type: ignore[attr-defined]
    assert bench.main([]) == 1
    assert "FELL  eight / Captum: 1.60, and 2.00 was recorded" in capsys.readouterr().out


def test_a_ratio_that_falls_once_is_measured_again(fake: ModuleType) -> None:
    assert bench.main(["--record"]) == 0
    found = iter([1.0, 2.0])
    fake.ratios = lambda: iter([Ratio(FASTER.name, next(found), FASTER.goal)])  # type: ignore[attr-defined]
    assert bench.main([]) == 0


def test_a_module_that_fails_is_named(
    fake: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", lambda name: None)
    assert bench.main(["fake"]) == 1
    assert "fake: ended with an error" in capsys.readouterr().out


def test_on_another_machine_the_record_says_so(
    fake: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Record(HERE, {"fake": Measured((FASTER,))}).write(tmp_path / "recorded.json")
    assert bench.main([]) == 0
    said = capsys.readouterr().out
    assert "2 cores of a processor" in said and "of another machine" in said


def test_names_of_lines_are_not_taken_twice() -> None:
    names = [line.name for measured in Record.read(RECORDED).modules.values() for line in measured.ratios]
    assert len(names) == len(set(names))


def test_the_page_names_what_falls_short(tmp_path: Path) -> None:
    curves = tuple(Curve("demo", method, (8, 16), (0.1, 0.01)) for method in ("ours", "Captum"))
    slow = Line("monai", "Grad-CAM", 10.0, 20.0, 0.5, 1e-6, 1.0, "batches of 8", "batches of 8")
    text = speed_page.page_of(
        record(FASTER, Ratio("occlusion / bare", 1.3, 1.1, 0.0, "lower"), windows=curves),
        Peers(HERE, 8, (224, 224), (slow,), {"zennit": "it needs what is not there"}),
    )
    assert "- occlusion / bare: 1.30, where the goal is 1.10." in text
    assert "Slower than another package: monai: Grad-CAM (0.50)" in text
    assert "- `zennit`: it needs what is not there" in text
    assert "(speed-windows.svg)" in text
    assert "| eight / Captum | 2.00 | ≥ 1.50 | 1.0e-02 |" in text


def test_equal_curves_make_equal_plots(tmp_path: Path) -> None:
    curves = (Curve("demo", "ours", (8, 16), (0.1, 0.01)), Curve("other", "ours", (8, 16), (0.2, 0.02)))
    for name in ("one", "two"):
        speed_page.write_page(record(FASTER, windows=curves), tmp_path / f"{name}.md")
        (tmp_path / "speed-windows.svg").rename(tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_page_is_that_of_the_record() -> None:
    assert speed_page.PAGE.read_text() == speed_page.page_of(Record.read(RECORDED), Peers.read(speed_page.PEERS)), (
        "make it again: python -m tests.benchmarks.speed_page"
    )
    assert json.loads(RECORDED.read_text())["modules"].keys() <= modules.MODULES.keys()
