"""MONAI's datalists as cohort tables."""

import json
from pathlib import Path
from typing import Any

import pytest
from monai.data import load_decathlon_datalist

from models.errors import ConfigurationError
from tasks.cohort.config import CohortConfig
from tasks.cohort.datalist import read_datalist
from tasks.cohort.pseudonyms import Key
from tasks.cohort.survey import Survey, survey
from tests.tasks.test_cohort import picture

ITEMS = [
    {"image": ["images/1_t1.png", "images/1_t2.png"], "label": "masks/1.png", "fold": 0},
    {"image": ["images/2_t1.png", "images/2_t2.png"], "label": "masks/2.png", "fold": [1]},
]
DECATHLON = {
    "name": "Doe",
    "labels": {"0": "background", "1": "Doe"},
    "numTraining": 2,
    "training": ITEMS,
    "test": ["./images/3_t1.png"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        for name in (f"images/{number}_t1.png", f"images/{number}_t2.png", f"masks/{number}.png"):
            picture(tmp_path / name)
    return tmp_path


def surveyed(folder: Path, content: Any, **fields: Any) -> Survey:
    source = folder / "dataset.json"
    source.write_text(content if isinstance(content, str) else json.dumps(content))
    config = CohortConfig.model_validate({"source": str(source), "identifiers": "as given", **fields})
    return survey(config, 2, Key.make())


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (ITEMS, {}),
        (DECATHLON, {"section": "training"}),
        ({"validation": ITEMS, "labels": {"0": "Doe"}, "test": []}, {}),
    ],
    ids=["list", "section", "only list"],
)
def test_a_datalist_is_read_as_monai_reads_it(folder: Path, content: Any, fields: dict[str, Any]) -> None:
    how = {"columns": {"mask": "label"}, "sequences": ["t1", "t2"], **fields}
    found = surveyed(folder, content, **how)
    if isinstance(content, list):
        content = {"training": content}
    (folder / "of-monai.json").write_text(json.dumps(content))
    key = next(name for name in ("training", "validation") if name in content)
    oracle = load_decathlon_datalist(str(folder / "of-monai.json"), data_list_key=key)
    places = [found.sources(entry.id) for entry in found.entries]
    assert [(list(place.uris), place.mask) for place in places if place] == [
        (item["image"], item["label"]) for item in oracle
    ]
    assert not any(entry.reason for entry in found.entries) and all(entry.mask for entry in found.entries)


def test_items_may_be_names_alone(folder: Path) -> None:
    found = surveyed(folder, DECATHLON, section="test")
    assert [(entry.id, entry.reason) for entry in found.entries] == [("./images/3_t1.png", None)]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (0, "healthy"),
        (1.0, "tumour"),
        ("1", "tumour"),
        (2, "2"),
        (True, "true"),
        (None, None),
        (["0", "1"], "healthy|tumour"),
    ],
)
def test_a_label_is_a_class_if_that_is_stated(folder: Path, label: Any, expected: str | None) -> None:
    content = [{"image": "images/1_t1.png", "label": label, "case": 7}]
    found = surveyed(
        folder, content, columns={"label": "label", "id": "case"}, label_map={"0": "healthy", "1": "tumour"}
    )
    assert [(entry.id, entry.label, entry.mask) for entry in found.entries] == [("7", expected, None)]


@pytest.mark.parametrize("columns", [{"uri": "image"}, {"uri": "image", "subject": "fold"}])
def test_a_label_that_nothing_is_stated_of_is_left_alone(folder: Path, columns: dict[str, str]) -> None:
    found = surveyed(folder, ITEMS[:1], columns=columns, sequences=["t1", "t2"])
    assert [(entry.label, entry.mask) for entry in found.entries] == [(None, None)]


def test_keys_may_name_the_sequences(folder: Path) -> None:
    content = [{"flair": "images/1_t1.png", "post": "images/1_t2.png"}]
    found = surveyed(folder, content, columns={"uri": ["flair", "post"]})
    assert [source.name for source in found.entries[0].sources] == ["flair", "post"]


def test_keys_that_are_left_alone_cost_nothing(folder: Path) -> None:
    items = [{"image": "images/1_t1.png", f"key {number}": number} for number in range(1000)]
    names, rows = read_datalist(json.dumps(items).encode(), "", "image", lambda name: name == "image")
    assert names == ["image"] and all(cells == ["images/1_t1.png"] for _, cells in rows)


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (ITEMS, {}, "one of them is `label`, which may be a class or the path of a mask: say which by cohort.columns"),
        (DECATHLON, {}, r"holds 2 lists, of them training \(2\), test \(1\): say which is meant by cohort.section"),
        (DECATHLON, {"section": "validation"}, "and none that is called 'validation': say which"),
        (ITEMS, {"section": "training"}, "is one list, without sections: leave cohort.section out"),
        ([{"Doe": "a.png"}], {}, r"has no column `image` and columns that are not known \(counted from the left: 1\)"),
        ([{"image": "a.png"}, 3], {}, "holds neither an object nor the name of a file in row 2"),
        ([{"image": {"Doe": 1}}], {}, "holds in row 1, where a text, a number or a list of texts is needed"),
        ([{"image": ["Doe|a.png"]}], {}, "holds in row 1, where a text"),
        ([{"image": "a.png", "id": "x"}, {"id": "Doe"}], {}, "row 2 of .* has no `uri`"),
        ([{"image": ["a.png", "b.png"]}], {}, "row 1 of .* names several files: name the sequences"),
        (3, {}, "is neither a list of images nor an object that holds such lists"),
        ('{"training": [], "training": ["Doe"]}', {}, "has an object that names a key twice"),
        ('{"training": ["Doe"', {}, "is no table that can be read .JSONDecodeError."),
        ("[" * 100_000, {}, "is no table that can be read .RecursionError."),
        ({}, {}, "holds 0 lists"),
    ],
)
def test_what_is_ambiguous_or_damaged_is_refused_and_nothing_quoted(
    folder: Path, content: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        surveyed(folder, content, **fields)
    assert str(error.value).startswith("cohort.source: ") and "Doe" not in str(error.value)
