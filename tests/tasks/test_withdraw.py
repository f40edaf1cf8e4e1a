import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import ConfigurationError
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, explained, prepared, promised, stored

MARKS = (b"patient-2", b"id-4", b"id-5", b"label='l4'", b"label='l5'")


def traces(output: Location) -> list[tuple[str, bytes]]:
    """Where a mark, or the digest of a file, is found; Parquet pages are compressed, so rows are looked at as well."""
    there = {name: (output / name).read() for name in output.sizes()}
    there["rows"] = repr(manifest.read(output)).encode()
    return [(name, mark) for name, data in there.items() for mark in MARKS if mark in data]


def test_nothing_is_left_of_a_subject_and_the_rest_is_as_it_was(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort.folder.joinpath("5.npy").write_bytes(b"no image")  # quarantined: its reason goes, too
    carry_out(cohort.content(output), report=True)
    digests = [entry.digest for entry in promised(output)[1][4:6] if entry.digest]
    before = open_store(output).load()
    assert {mark for _, mark in traces(output)} == set(MARKS)
    erased = withdraw(output, "patient-2")
    assert (erased.images, erased.whole, erased.fitted) == ((4, 5), True, 0)
    assert traces(output) == []
    everything = b"".join((output / name).read() for name in output.sizes())
    assert len(digests) == 1 and all(digest.encode() not in everything for digest in digests)
    after = open_store(output).load()
    assert after.status.values[4:6].tolist() == [4, 4]
    for name, variable in after.data_vars.items():
        rest = [row for row in range(10) if row not in (4, 5)]
        assert str(variable.values[rest].tolist()) == str(before[name].values[rest].tolist())
    for name in ("image", "logit", "probability", "attribution", "affine"):
        assert np.isnan(after[name].values[4:6]).all()
    assert (after.mask.values[4:6] == 255).all()
    assert verify(output) == []
    page = (output / "report/index.html").read().decode()
    assert "id-4" not in page and 6 <= page.count('<article class="case"') <= 8

    # A later run does not bring it back, and neither does one that overwrites.
    stored_before = stored(output)
    assert carry_out(cohort.content(output)).withdrawn == 2
    assert stored(output) == stored_before
    cohort.add([10])
    assert carry_out(cohort.content(output)).images == 11
    assert traces(output) == []
    carry_out(cohort.content(output), overwrite=True)
    assert traces(output) == [] and len(promised(output)[1]) == 9


def test_the_others_are_recomputed_bit_for_bit_without_it(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output))
    withdraw(output, "id-5")
    before = stored(output)
    (output / "commits").remove()
    carry_out(cohort.content(output))
    assert stored(output) == before


def test_a_subject_is_withdrawn_from_an_output_that_is_not_finished(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output), report=True)
    cohort.add(range(10, 20))
    ready = prepared(cohort.content(output))
    ready.plan.write(output, ready.entries)
    explained(output, [2])
    assert not withdraw(output, "patient-2").whole
    assert traces(output) == []
    assert "report/index.html" not in output.sizes()
    assert carry_out(cohort.content(output)).withdrawn == 2
    assert verify(output) == [] and traces(output) == []


def test_objects_that_no_commit_speaks_of_are_deleted(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output))
    (output / "commits/000001.json").remove()
    withdraw(output, "patient-2")
    assert not [key for key in stored(output) if key.startswith(("attribution/c/1/", "image/c/1/", "logit/c/1/"))]
    carry_out(cohort.content(output))
    assert verify(output) == []


def test_an_unknown_subject_is_an_error(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output))
    with pytest.raises(ValueError, match="nothing was erased"):
        withdraw(output, "patient-99")


def of_another_layout(output: Location, **changes: Any) -> None:
    """Make the plan that an output holds one of an earlier version."""
    content = json.loads(Plan.read(output).model_dump_json()) | {"layout": 1, "a_field_of_old": 1} | changes
    del content["parts"]
    text = json.dumps(content)
    metadata = {"plan": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    manifest.write(output, manifest.read(output), 4, metadata)


def test_a_run_that_overwrites_another_layout_keeps_what_was_withdrawn_and_its_key(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COHORTLENS_PSEUDONYM_KEY")  # so that the output holds a key of its own
    output = Location(url=str(tmp_path / "out"))
    content = cohort.content(output, explainers=["saliency"])
    content["cohort"] |= {"identifiers": "pseudonymous"}
    carry_out(content)
    withdraw(output, "id-5")
    before = Plan.read(output)
    of_another_layout(output)
    with pytest.raises(ConfigurationError, match="has the layout 1"):
        carry_out(content)
    carry_out(content, overwrite=True)
    after = Plan.read(output)
    assert after.key == before.key and after.withdrawn == before.withdrawn
    assert len(manifest.read(output)) == 9

    of_another_layout(output, withdrawn={"id-5": "long ago"})
    with pytest.raises(ConfigurationError, match="this version cannot read, and which would be lost"):
        carry_out(content, overwrite=True)
