"""Ratings beside a store: which count, what is written of them, and that they go with whom they are about."""

import csv
import json
import logging
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from flows.cli import main
from models.errors import ConfigurationError
from models.metrics import standard
from tasks.plan import manifest
from tasks.ratings.importing import bring_in
from tasks.ratings.inbox import Refused, own_ratings, take
from tasks.ratings.rating import LARGEST, Region, folder_of
from tasks.ratings.regions import metrics_of
from tasks.ratings.summary import REGIONS, SUMMARY, TABLE, Summary, fold_in
from tasks.report import write_report
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, promised, stored
from tests.tasks.readings import rating_of

MASK_METRICS = ["hit_rate", "iou", "auprc", "relevance_mass", "relevance_rank"]


@pytest.fixture
def finished(cohort: Cohort, output: Location) -> Location:
    carry_out(cohort.content(output, metrics=MASK_METRICS))
    return output


def save(output: Location, row: int, rater: str = "reader-a", **changes: Any) -> dict[str, Any]:
    rating = rating_of(output, row, rater, **changes)
    take(output, json.dumps(rating).encode())
    return rating


def put(output: Location, content: dict[str, Any] | bytes, folder: str = folder_of("id-1"), name: str = "") -> str:
    """Put a file where ratings lie, as a foreign program might."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    file = f"{folder}/{name or (content['id'] if isinstance(content, dict) else 'x')}.json"
    (output / file).write(data)
    return file


def rows(output: Location, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO((output / name).read().decode(), newline="")))


def test_the_store_stays_as_it_is(finished: Location) -> None:
    before = stored(finished)
    save(finished, 0, prediction="agree", region=Region.of(np.eye(16, dtype=bool)).model_dump())
    fold_in(finished)
    assert stored(finished) == before
    assert verify(finished) == []


def test_what_does_not_count_is_listed_with_the_reason(finished: Location) -> None:
    save(finished, 0)
    replaced = save(finished, 0)
    last = save(finished, 0, time="2026-11-26T12:15:00+01:00", comment="later, by another clock")
    of_target = save(finished, 0, target="rank 1")
    other = rating_of(finished, 1)
    other["seen"]["parts"] = ["0" * 64]
    swapped = rating_of(finished, 1)
    swapped["seen"]["row"] = rating_of(finished, 2)["seen"]["row"]
    files = {
        put(finished, b"{"): "damaged",
        put(finished, b"[1]", name="list"): "damaged",
        put(finished, b" " * (LARGEST + 1), name="large"): "damaged",
        put(finished, rating_of(finished, 1), name="other"): "damaged",
        put(finished, rating_of(finished, 2)): "damaged",
        put(finished, rating_of(finished, 1, image_id="id-99"), folder_of("id-99")): "of an unknown image",
        put(finished, other): "of another store",
        put(finished, swapped): "of another store",
        put(finished, rating_of(finished, 1, shown=["no such"])): "of another store",
        put(finished, rating_of(finished, 1, " ")): "unnamed",
    }
    found = fold_in(finished)
    told = {one.file: one.kind for one in found.apart}
    replaced_files = {file for file, kind in told.items() if kind == "replaced"}
    assert {file: kind for file, kind in told.items() if kind != "replaced"} == files
    assert len(replaced_files) == 2 and f"{folder_of('id-0')}/{replaced['id']}.json" in replaced_files
    assert {row["id"] for row in rows(finished, TABLE)} == {last["id"], of_target["id"]}
    assert (found.ratings, found.images, found.raters) == (2, 1, {"reader-a": 2})
    assert Summary.read(finished) == found
    assert {(one.what, one.where) for one in verify(finished)} == {
        ("rating", file) for file, kind in files.items() if kind in ("damaged", "of an unknown image")
    }


def test_ratings_stay_good_when_other_things_are_added(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output))
    for row in (0, 4):
        save(output, row, prediction="agree")
    cohort.add([10, 11])
    more = ["saliency", {"name": "smoothgrad", "samples": 2}, "input_x_gradient"]
    carry_out(cohort.content(output, explainers=more, metrics=["gini"]), extend=True)
    withdraw(output, "patient-1")
    assert fold_in(output).ratings == 2
    cohort.add([4], version=1)
    carry_out(cohort.content(output, explainers=more, metrics=["gini"]))
    found = fold_in(output)
    assert found.ratings == 1 and [one.kind for one in found.apart] == ["of another store"]


def test_a_region_takes_the_place_of_the_mask(finished: Location) -> None:
    store = open_store(finished).load()
    for row in range(6):
        mask = store["mask"].values[row] == 1
        save(finished, row, region=Region.of(mask).model_dump())
    found = fold_in(finished)
    evaluated = rows(finished, REGIONS)
    assert len(evaluated) == 6 * 2 * len(MASK_METRICS)
    for row in evaluated:
        of = {"image_id": row["image_id"], "explainer": row["explainer"], "target": row["target"]}
        expected = float(store[f"metric_{row['metric']}"].sel(of))
        assert float(row["by_region"]) == float(row["by_mask"]) == pytest.approx(expected, rel=1e-6)
    assert [one.maps for one in found.regions] == [6] * 2 * len(MASK_METRICS)


def test_another_region_gives_another_value_and_no_region_none(finished: Location) -> None:
    store = open_store(finished).load()
    half = np.zeros((16, 16), bool)
    half[:8] = True
    save(finished, 0, target="rank 1", region=Region.of(half).model_dump())
    save(finished, 1, region={"shape": [16, 16], "runs": []})
    fold_in(finished)
    by = {(row["image_id"], row["metric"], row["explainer"]): row["by_region"] for row in rows(finished, REGIONS)}
    positive = np.clip(store["attribution"].sel(image_id="id-0", explainer="saliency").values[0], 0, None)
    mass = positive[half].sum() / positive.sum()
    assert float(by["id-0", "relevance_mass", "saliency"]) == pytest.approx(mass, rel=1e-5)
    assert by["id-1", "relevance_mass", "saliency"] == ""


def test_every_metric_that_needs_a_mask_needs_no_network(finished: Location) -> None:
    plan, _ = promised(finished)
    kinds = {metric.title for metric in standard() if metric.needs_masks}
    assert {metric.title for metric in metrics_of(plan.model_copy(update={"metrics": ()}))} == kinds
    assert [metric.title for metric in metrics_of(plan)] == [one.title for one in plan.metrics]


def test_raters_agree_with_the_model_and_each_other_as_counted_by_hand(finished: Location) -> None:
    said = {"a": ["agree", "agree", "disagree", "agree"], "b": ["agree", "unsure", "disagree", "agree"]}
    for rater, verdicts in said.items():
        for row, verdict in enumerate(verdicts):
            save(finished, row, rater, prediction=verdict)
    save(finished, 5, "a", explanation="unsure")
    prediction, explanation = fold_in(finished).answers
    assert prediction.counts == {"agree": 5, "disagree": 2, "unsure": 1} and prediction.cases == 4
    assert prediction.agree.value == 5 / 8
    assert prediction.pairs[0].kappa.value == pytest.approx((3 / 4 - (3 * 2 + 1 * 1) / 16) / (1 - (3 * 2 + 1) / 16))
    assert explanation.cases == 0 and explanation.ac1.value is None and explanation.agree.value == 0


def test_downloads_are_brought_in_once(finished: Location, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "downloads"
    (folder / "more").mkdir(parents=True)
    for place in ("rating (1).json", "more/rating.json", "more/again.json"):
        (folder / place).write_text(json.dumps(rating_of(finished, 3, comment="Jane Doe")))
    copied = json.loads((folder / "more/again.json").read_text())
    (folder / "same.json").write_text(json.dumps(copied))
    (folder / "z-clash.json").write_text(json.dumps(copied | {"comment": "other"}))
    (folder / "unknown.json").write_text(json.dumps(rating_of(finished, 3, image_id="id-99")))
    (folder / "notes.json").write_text("{}")
    (folder / "notes.txt").write_text("no rating")
    _, entries = promised(finished)
    for _ in range(2):
        found = bring_in(finished, Location(url=str(folder)), entries)
        assert {one.file for one in found.refused} == {"unknown.json", "notes.json", "z-clash.json"}
        assert found.saved == 4
    assert len((finished / folder_of("id-3")).names()) == 3
    fold_in(finished)
    assert "Jane" not in caplog.text and b"Jane" not in (finished / SUMMARY).read()
    for missing in ("missing", next(file.name for file in folder.iterdir() if file.is_file())):
        with pytest.raises(ConfigurationError, match="no folder"):
            bring_in(finished, Location(url=str(folder / missing)), entries)


def test_what_is_too_large_for_a_rating_is_not_read(finished: Location, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    with (folder / "annotations.json").open("wb") as file:
        file.truncate(2**40)
    found = bring_in(finished, Location(url=str(folder)), promised(finished)[1])
    assert (found.saved, [one.file for one in found.refused]) == (0, ["annotations.json"])


def test_a_rater_is_one_whatever_spaces_stand_around_the_name(finished: Location) -> None:
    for rater in ("reader-a", " reader-a "):
        save(finished, 0, rater, prediction="agree")
    assert fold_in(finished).raters == {"reader-a": 1}
    assert len(own_ratings(finished, "id-0", "reader-a ")) == 2


@pytest.mark.parametrize("time", [1.5, 20261126, "20261126", "-12.5"])
def test_a_number_is_no_time(finished: Location, time: object) -> None:
    with pytest.raises(Refused, match="ISO 8601"):
        save(finished, 0, time=time)


def test_ratings_go_with_their_subject(finished: Location) -> None:
    for row in range(10):
        save(finished, row, comment=f"about row {row}", region=Region.of(np.ones((16, 16), bool)).model_dump())
    (finished / folder_of("id-4") / "damaged.json").write(b"{")
    fold_in(finished)
    withdraw(finished, "patient-2")
    everything = b"".join((finished / name).read() for name in finished.sizes() if not name.startswith("explanations"))
    assert not [mark for mark in (b"id-4", b"id-5", b"about row 4", b"about row 5") if mark in everything]
    assert not [name for name in finished.sizes() if "id-4" in name or "id-5" in name]
    found = Summary.read(finished)
    assert found is not None and (found.ratings, found.apart) == (8, ())
    assert verify(finished) == []


@pytest.mark.parametrize("stage", ["erase_unknown", "_erase"])
def test_a_withdrawal_that_was_killed_leaves_no_rating_of_whom_the_manifest_has_forgotten(
    finished: Location, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    for row in range(6):
        save(finished, row)
    fold_in(finished)

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"tasks.upkeep.withdraw.{stage}", die)
        with pytest.raises(KeyboardInterrupt):
            withdraw(finished, "patient-2")
    known = {entry.id for entry in manifest.read(finished)}
    rated = {name.split("/")[1] for name in finished.sizes() if name.startswith("ratings/id-")}
    assert rated <= known and ("id-4" in rated) == (stage == "erase_unknown")
    withdraw(finished, "patient-2")
    assert not [name for name in finished.sizes() if "id-4" in name or "id-5" in name]


def test_the_report_tells_of_ratings_if_there_are_some(finished: Location) -> None:
    def page() -> str:
        return (write_report(finished)).read().decode()

    assert "What do readers say?" not in page()
    save(finished, 0, prediction="agree", shown=["saliency", "smoothgrad"], helps=["saliency"], comment="Jane")
    save(finished, 1, "b", region={"shape": [16, 16], "runs": [[0, 9]]})
    fold_in(finished)
    told = page()
    assert "2 ratings of 2 images by 2 raters" in told and "preferred to the others shown" in told
    assert "drawn regions" in told and "Jane" not in told
    assert "has changed since" not in told
    damaged = (finished / SUMMARY).read().replace(b'"ratings"', b'"rating"')
    (finished / SUMMARY).write(damaged)
    assert "What do readers say?" not in page()


def test_the_verb_prints_tables_or_json(finished: Location, tmp_path: Path) -> None:
    write_report(finished)
    (tmp_path / "in").mkdir()
    rating = rating_of(finished, 0, prediction="agree", shown=["saliency", "smoothgrad"], helps=["saliency"])
    (tmp_path / "in/one.json").write_text(json.dumps(rating))
    put(finished, rating_of(finished, 1, ""))
    result = CliRunner().invoke(main, ["ratings", finished.url, "--import", str(tmp_path / "in")])
    assert result.exit_code == 0, result.output
    for told in ("imported", "1 of 1 image; 1 kept apart", "saliency preferred to smoothgrad", "unnamed"):
        assert told in result.output
    assert "What do readers say?" in (finished / "report/index.html").read().decode()
    result = CliRunner().invoke(main, ["ratings", finished.url, "--json"])
    said = json.loads(result.stdout)
    assert said["imported"] is None and said["summary"] == json.loads((finished / SUMMARY).read())
    result = CliRunner().invoke(main, ["ratings", str(tmp_path / "nothing")])
    assert (result.exit_code, "no run at" in result.output) == (2, True)


def test_an_output_without_ratings_has_no_summary(finished: Location) -> None:
    found = fold_in(finished)
    assert (found.ratings, found.apart, found.regions, found.preferences) == (0, (), (), ())
    assert (finished / "ratings").sizes() == {}
