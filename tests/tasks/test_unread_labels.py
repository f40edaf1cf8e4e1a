"""Labels that name no class are counted, with their rows and the nearest class, and not by what they say."""

from pathlib import Path

import pandas as pd
import pytest

from flows.cli.printing import print_plan
from tasks.plan.labels import read_labels
from tasks.storage.location import Location
from tests.tasks.outputs import Cohort, carry_out, prepared

SPELT = ("normal", "lesion", "Lesion", " lesion ", None, "leison", "Lesion", "Doe")


@pytest.mark.parametrize("exclusive", [True, False])
def test_only_what_is_stated_is_known(exclusive: bool) -> None:
    labels = ("effusion", "effusion|oedema", "No Finding", "normal", "Effusion", "effusion|edema", "effusion|", "")
    read = read_labels(labels, ("effusion", "oedema"), exclusive)
    known = [True, *[not exclusive] * 3, False, False, False, False]
    assert read.known.tolist() == known
    assert read.truth.tolist() == [[True, False], [not exclusive] * 2, *[[False, False]] * 6]
    assert sum(read.unread.values()) == known.count(False) - 1


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_plan_says_which_rows_have_labels_that_name_no_class(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, output = Cohort(tmp_path / "cohort", range(8)), Location(url=str(tmp_path / "out"))
    frame = pd.DataFrame({"uri": [f"{n}.npy" for n in range(8)], "label": SPELT})
    table = cohort.folder / f"c.{suffix}"
    frame.to_csv(table, index=False) if suffix == "csv" else frame.to_parquet(table)
    content = cohort.content(output, cohort={"source": str(table)}, explainers=["saliency"])
    content["model"] = content["model"] | {"classes": ["normal", "lesion"]}
    ready = prepared(content)
    print_plan(ready)
    said = capsys.readouterr().out
    lines = [line.partition("no class")[2].strip() for line in said.splitlines() if line.startswith("no class")]
    assert lines == [
        "2 images have a label that names no class, and count as unlabelled (in the table's row 3, 7; the nearest "
        "class is 'lesion')",
        "1 image has a label that names no class, and counts as unlabelled (in the table's row 8)",
        "1 image has a label that names no class, and counts as unlabelled (in the table's row 6; the nearest class "
        "is 'lesion')",
    ]
    assert "Doe" not in said and "none are named: every image counts as a subject of its own" in said


def test_concepts_are_no_unread_labels(tmp_path: Path) -> None:
    cohort, output = Cohort(tmp_path / "cohort", range(5)), Location(url=str(tmp_path / "out"))
    labels = ["a|striped", "striped", "dotted|b", "a|stripd", None]
    frame = pd.DataFrame({"uri": [f"{n}.npy" for n in range(5)], "label": labels})
    frame.to_csv(cohort.folder / "c.csv", index=False)
    asked = {"explainers": ["pooled_activations"], "cohort": {"source": str(cohort.folder / "c.csv")}}
    asked["results"] = [{"name": "tcav", "concepts": ["striped", "dotted", "a"]}]
    content = cohort.content(output, **asked)
    assert [(one.images, one.rows) for one in prepared(content).unread_labels] == [(1, (4,))]
    carry_out(content, report=True)
    page = (output / "report/index.html").read().decode()
    assert "1 images have a label that names none" in page and "stripd" in page


def test_whole_numbers_with_gaps_are_the_classes_that_they_are(tmp_path: Path) -> None:
    cohort, output = Cohort(tmp_path / "cohort", range(4)), Location(url=str(tmp_path / "out"))
    frame = pd.DataFrame({"uri": [f"{n}.npy" for n in range(4)], "label": [0, 1, None, 1]})
    frame.to_parquet(cohort.folder / "c.parquet")
    content = cohort.content(output, cohort={"source": str(cohort.folder / "c.parquet")}, explainers=["saliency"])
    ready = prepared(content | {"model": content["model"] | {"classes": ["0", "1"]}})
    assert ready.unread_labels == []
    assert [entry.label for entry in ready.entries] == ["0", "1", None, "1"]
