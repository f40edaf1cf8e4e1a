"""Runs in bf16: refused, or checked, recorded, and part of what decides the bytes."""

import json
from pathlib import Path
from typing import Any

import pytest

from models import precision
from models.precision import check_instructions
from tasks.plan.plan import Plan
from tasks.prepare.replan import Refused
from tasks.storage.location import Location
from tasks.store import template
from tasks.upkeep.verify import verify
from tests.tasks.outputs import Cohort, carry_out, prepared, stored


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort", range(5))


@pytest.fixture(autouse=True)
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a processor without the instructions do it, too, as long as it takes."""
    monkeypatch.setattr("models.precision._has_instructions", lambda: True)


def content(cohort: Cohort, output: Location, precision: str, **changes: Any) -> dict[str, Any]:
    return cohort.content(output, compute={"batch_size": 3, "precision": precision}, **changes)


def test_the_check_is_stored_and_precision_decides_the_bytes(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output, "bf16"))
    plan = Plan.read(output)
    assert set(plan.deviation) == {"logits", "saliency", "smoothgrad"}
    attributes = template.open_store(output).attrs
    assert attributes["precision"] == "bf16"
    assert json.loads(attributes["deviation_from_fp32"])["saliency"]["rank_correlation"] > 0.9
    assert verify(output) == []

    exact = Location(url=f"{output.url}-fp32")
    carry_out(content(cohort, exact, "fp32"))
    assert stored(exact)["attribution/c/0/0/0/0/0"] != stored(output)["attribution/c/0/0/0/0/0"]
    assert "precision" not in template.open_store(exact).attrs
    with pytest.raises(Refused, match=r"precision: bf16 → fp32"):
        prepared(content(cohort, output, "fp32"))


def test_a_second_run_is_written_already_and_what_extends_is_checked_too(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output, "bf16"))
    assert prepared(content(cohort, output, "bf16")).is_written
    more = ["saliency", {"name": "smoothgrad", "samples": 2}, "input_x_gradient"]
    carry_out(content(cohort, output, "bf16", explainers=more), extend=True)
    assert "input_x_gradient" in Plan.read(output).deviation
    assert verify(output) == []


def test_what_does_not_agree_is_refused_with_the_numbers(
    cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "MOST_RELATIVE_L2", 1e-9)
    with pytest.raises(ValueError, match=r"differs from fp32 .*saliency: rank correlation [01]\.\d+, relative L2 0\.0"):
        prepared(content(cohort, output, "bf16"))


def test_a_processor_without_the_instructions_is_refused_unless_others_do_the_work(
    cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.precision._has_instructions", lambda: False)
    with pytest.raises(ValueError, match="no instructions for bf16"):
        prepared(content(cohort, output, "bf16"))
    check_instructions("fp32", "cpu")
    check_instructions("bf16", "cuda")
