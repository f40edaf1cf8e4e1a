import hashlib
import hmac
import os
from pathlib import Path

import pytest

from tasks.cohort.pseudonyms import VARIABLE, Key
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, promised

OURS, OTHER = "a key of our own, long enough", "another key, as long as it is"


def content(cohort: Cohort, output: Location) -> dict[str, object]:
    return cohort.content(output, cohort={"source": str(cohort.folder / "manifest.csv")}, explainers=["saliency"])


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort", range(4))


def everything(output: Location) -> bytes:
    return b"".join((output / name).read() for name in output.sizes()) + repr(manifest.read(output)).encode()


def test_a_pseudonym_is_what_anybody_with_the_key_can_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, OURS)
    assert Key.make().pseudonym("Doe/1.dcm") == hmac.new(OURS.encode(), b"Doe/1.dcm", hashlib.sha256).hexdigest()[:16]


def test_a_name_that_is_not_utf_8_has_the_pseudonym_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, OURS)
    digest = hmac.new(OURS.encode(), b"K\xf6ln", hashlib.sha256).hexdigest()
    assert Key.make().pseudonym(os.fsdecode(b"K\xf6ln")) == digest[:16]


def test_the_key_of_the_environment_is_not_kept(
    cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, OURS)
    carry_out(content(cohort, output), report=True)
    plan, entries = promised(output)
    assert [entry.id for entry in entries] == [Key.make().pseudonym(f"id-{number}") for number in range(4)]
    assert OURS.encode() not in everything(output) and plan.key.kept is None
    for other, message in (
        (None, f"set {VARIABLE} to it"),
        (OTHER, "is not the key of this output's pseudonyms: set it"),
    ):
        monkeypatch.setenv(VARIABLE, other) if other else monkeypatch.delenv(VARIABLE)
        with pytest.raises(ValueError, match=message):
            carry_out(content(cohort, output))
    monkeypatch.setenv(VARIABLE, OURS)
    assert carry_out(content(cohort, output)).explained == 4


def test_without_a_key_every_output_has_its_own_and_keeps_it(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    outputs = [Location(url=str(tmp_path / name)) for name in ("one", "two")]
    for output in outputs:
        carry_out(content(cohort, output), report=True)
    (one, ours), (two, theirs) = (promised(output) for output in outputs)
    assert not {entry.id for entry in ours} & {entry.id for entry in theirs}
    assert one.key.kept and two.key.kept and one.key.kept != two.key.kept
    assert one.key.kept not in repr(one) and one.key.kept.encode() not in (outputs[0] / "plan.json").read()
    assert carry_out(content(cohort, outputs[0])).explained == 4 and Plan.read(outputs[0]).key == one.key
    assert "random key, which the output holds" in one.key.about
    monkeypatch.setenv(VARIABLE, OURS)
    with pytest.raises(ValueError, match="unset it, since the output has a key of its own"):
        carry_out(content(cohort, outputs[0]))


def test_a_key_that_can_be_guessed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "secret")
    with pytest.raises(ValueError, match="has 6 characters, so that it can be guessed"):
        Key.make()


@pytest.mark.parametrize("as_the_cohort_says", [True, False])
def test_a_subject_is_withdrawn_by_either_name_and_stays_away(
    cohort: Cohort, output: Location, as_the_cohort_says: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    carry_out(content(cohort, output))
    key = Plan.read(output).key
    name = "patient-1" if as_the_cohort_says else key.pseudonym("patient-1")
    assert withdraw(output, name).images == (2, 3)
    assert withdraw(output, name).images == (2, 3)  # once more, as after a crash
    assert carry_out(content(cohort, output)).withdrawn == 2
    again = carry_out(content(cohort, output), overwrite=True)
    assert (again.images, again.withdrawn) == (2, 0)  # the key stays, and so does what was withdrawn


def test_another_way_of_naming_is_another_run(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output))
    with pytest.raises(ValueError, match=r"cohort\.identifiers: pseudonymous → as given"):
        carry_out(cohort.content(output, explainers=["saliency"]))
