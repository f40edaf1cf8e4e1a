import re
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import tasks.report
from flows.demo import demo_content
from tasks.demo.cohort import write_cohort
from tasks.plan.labels import read_labels
from tasks.plan.predictions import Predictions, entropy
from tasks.report import write_report
from tasks.report.cases import choose, doubts, in_turn
from tasks.report.means import Group, _mean, fitting, mean_maps
from tasks.report.pictures import Panel, Scale, _outline, case_panels, overlay, slice_of
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tasks.work.finish import finish
from tests.tasks.conftest import Planned
from tests.tasks.outputs import NETWORK, Cohort, carry_out, explained, squares_model


@pytest.mark.parametrize("marker", [False, True])
def test_a_network_that_is_right_for_the_wrong_reason_is_called_out(tmp_path: Path, marker: bool) -> None:
    manifest = write_cohort(tmp_path / "cohort", images=24, spatial_dims=2, damaged=0, marker=marker)
    content = demo_content(str(manifest), str(tmp_path / "out"), spatial_dims=2, marker=marker)
    carry_out(content | {"explainers": ["saliency", "gradcam", "lrp", "control_random"]}, report=True)
    dataset = open_store(Location(url=str(tmp_path / "out")))
    right = (dataset["probability"].argmax("class") == (dataset["label"] == "lesion")).mean()
    assert right > (0.95 if marker else 0.8)
    inside = dataset["metric_relevance_mass"].mean(("image_id", "target"))
    for explainer in ("saliency", "gradcam", "lrp"):
        chance = float(inside.sel(explainer="control_random"))
        assert (inside.sel(explainer=explainer) < 2 * chance) == marker
    maps = np.clip(dataset["attribution"].isel(target=0).sel(explainer="lrp").values[1::2], 0, None)
    corner = maps[:, :16, :16].sum((1, 2)) / maps.sum((1, 2))
    assert (corner.mean() > 0.8) == marker
    page = (tmp_path / "out/report/index.html").read_text()
    assert ("a shortcut, such as a marker or the device" in page) == marker


def test_the_evidence_table_lies_beside_the_page_and_forgets_who_is_withdrawn(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(10))
    asked = {"explainers": ["saliency", "control_random"], "metrics": ["gini", "auprc"]}
    carry_out(cohort.content(output, **asked), report=True)
    table = pd.read_csv(tmp_path / "out/report/evidence.csv").set_index(["class", "metric", "explainer"])
    gini = open_store(output)["metric_gini"].sel(explainer="saliency").values
    assert table.loc[("all", "gini", "saliency"), "mean"] == pytest.approx(float(gini.mean()), rel=1e-6)
    assert set(table.index.get_level_values("metric")) == {"gini", "auprc"}  # chance levels are no metrics
    assert table.loc[("all", "gini", "saliency"), ["values", "patients"]].tolist() == [10, 5]
    assert 'href="evidence.csv"' in (output / "report/index.html").read().decode()
    assert verify(output) == []
    withdraw(output, "patient-2")
    table = pd.read_csv(tmp_path / "out/report/evidence.csv").set_index(["class", "metric", "explainer"])
    assert table.loc[("all", "gini", "saliency"), ["values", "patients"]].tolist() == [8, 4]
    assert verify(output) == []
    (output / "evaluations").remove()
    (output / "commits/000000.json").remove()
    withdraw(output, "patient-1")
    assert not (output / "report/evidence.csv").exists()


@pytest.fixture
def page(tmp_path: Path, planned: Planned) -> str:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output)
    explained(output, range(len(plan.shards)))
    finish(output)
    return write_report(output).read().decode()


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    for name in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"):  # names of XML, never fetched
        page = page.replace(f'="{name}"', "")
    for reference in ("http://", "https://", ' src="/', "<link", "file://", "@import"):
        assert reference not in page
    cases, groups = page.count('<article class="case"'), page.count("<article>")
    assert cases > 6
    assert groups >= 2
    assert (
        page.count("data:image/webp;base64,") == cases * 5 + groups * 7 + 4 + 6
    )  # the controls are in the mean maps alone
    assert "the lesions are planted" in page
    assert "Left out" in page
    assert page.count("damaged-0000") == 3
    assert "3 of 39 images were not explained" in page


def test_the_page_is_read_in_order_and_leads_to_the_viewer(page: str) -> None:
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels.count(1) == 1 and all(later - earlier <= 1 for earlier, later in pairwise(levels))
    page = re.sub('<svg.*?</svg>|base64,[^"]+', "", page, flags=re.DOTALL)  # matplotlib gives names of its own
    places = re.findall(r' id="([^"]+)"', page)
    assert len(places) == len(set(places)) and {*re.findall(r'href="#([^"]+)"', page)} <= {*places}
    assert all("scope=" in cell for cell in re.findall(r"<th[^>]*>", page))
    assert all(" alt=" in one for one in re.findall("<img[^>]*>", page))
    shown = re.findall(r"<h4>([^<]+)</h4>", page)
    assert shown and re.findall(r"#/case/([^\"]+)\"", page) == [quote(id, safe="") for id in shown]
    for raw in ("{&#34;", "[{", "null", "nan"):
        assert raw not in page
    assert page.index("In short</h2>") < page.index("Is the model right?</h2>")


def test_text_from_files_is_escaped(tmp_path: Path, slices: Path, planned: Planned) -> None:
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    table = pd.read_csv(slices)[["id", "uri"]].tail(6)
    table["id"] = [f"{evil}{number}" for number in range(6)]
    table["label"] = evil
    table.to_csv(slices.with_name("evil.csv"), index=False)
    output = Location(url=str(tmp_path / "out"))
    plan = planned(
        output, cohort={"source": str(slices.with_name("evil.csv")), "description": evil, "identifiers": "as given"}
    )
    explained(output, range(len(plan.shards)))
    finish(output)
    page = write_report(output).read().decode()
    assert evil not in page and "<script" not in page and 'onerror="' not in page
    assert page.count("&lt;img src=x onerror=") > 6


def test_the_outline_surrounds_the_mask_in_pixel_coordinates() -> None:
    mask = np.zeros((10, 12), bool)
    mask[3:6, 4:9] = True
    numbers = _outline(mask).replace("M", " ").replace("L", " ").replace("Z", "").split()
    x, y = np.array(numbers, float).reshape(-1, 2).T
    assert (x.min(), x.max(), y.min(), y.max()) == (4, 9, 3, 6)


def test_a_volume_is_shown_at_its_maps_peak_or_in_its_middle() -> None:
    maps = np.zeros((2, 1, 7, 4, 5))
    maps[0, 0, 5, 1, 2] = -3
    maps[1] = np.nan
    space = ("z", "y", "x")
    volume = xr.Dataset(
        {"attribution": (("target", "explainer", *space), maps), "image": (("channel", *space), maps[0])}
    )
    assert [slice_of(volume, target, 0) for target in (0, 1, None)] == [5, 3, 3]
    assert [slice_of(volume, target, 2) for target in (0, 1, None)] == [2, 2, 2]
    mask = np.zeros((7, 4, 5))
    mask[1:4, 2:, 4] = 1
    assert [slice_of(volume.assign(mask=(space, mask)), 0, across) for across in range(3)] == [1, 2, 4]


@pytest.mark.parametrize(("channels", "coloured"), [(1, False), (3, True), (4, False)])
def test_three_channels_are_drawn_in_their_colours(channels: int, coloured: bool) -> None:
    pixels = np.zeros((channels, 8, 8))
    pixels[0] = np.linspace(0, 255, 64).reshape(8, 8)
    image = xr.Dataset(
        {"image": (("channel", "y", "x"), pixels), "affine": (("world", "voxel"), np.full((4, 4), np.nan))},
        {"voxel": list("zyx1")},
    )
    (panel,) = case_panels(image, None, [])
    drawn = np.asarray(Image.open(BytesIO(b64decode(panel.uri.partition(",")[2]))).convert("RGB")).astype(int)
    assert drawn[..., 0].min() < 5 and drawn[..., 0].max() > 250
    if coloured:
        assert drawn[..., 1:].max() == 0
        assert np.abs(drawn[..., 0] - pixels[0]).max() < 10
    else:
        assert (drawn == drawn[..., :1]).all()


def test_a_scale_shows_its_ends_and_its_middle() -> None:
    signed, positive = Scale("a", 2.0, signed=True), Scale("b", 2.0, signed=False)
    low, zero, high = signed.colours(np.array([-9.0, 0.0, 2.0]))
    assert zero.min() > 0.8  # near white
    assert np.abs(low - high).max() > 0.4
    dark, light = positive.colours(np.array([0.0, 5.0]))
    assert dark.max() < 0.1
    assert light.max() > 0.9


def test_a_scale_that_was_found_without_it_shows_what_is_below_zero() -> None:
    positive = Scale("b", 2.0, signed=False)
    assert not positive.showing(np.array([0.0, 1.0])).signed and positive.showing(np.array([np.nan, -1.0])).signed
    grey = np.full((1, 2, 3), 0.5)
    against, nothing = overlay(grey, np.array([[-2.0, 0.0]]), positive)[0]
    assert against[2] > against[0] and np.allclose(nothing, 0.5)


def test_entropy_is_in_bits() -> None:
    assert entropy(np.array([[0.5, 0.5], [1.0, 0.0]]), "softmax").tolist() == [1.0, 0.0]
    assert np.allclose(entropy(np.array([[0.5, 0.999], [0.01, 0.99]]), "sigmoid"), [1.0, 0.0808], atol=1e-3)


def test_the_page_has_no_script_and_none_may_run(page: str) -> None:
    assert "<script" not in page and "default-src 'none'" in page and "script-src" not in page


def test_what_the_model_got_right_and_where_it_looked_are_shown(page: str) -> None:
    for title in ("Is the model right?", "ROC curves", "called lesion, rightly", "not lesion, and not called so"):
        assert title in page
    assert page.index("Is the model right?</h2>") < page.index("Where does it look?</h2>") < page.index("Cases</h2>")


def test_mean_maps_count_each_image_the_same_and_go_by_outcome() -> None:
    maps = np.ones((4, 1, 1, 2, 2), np.float32)
    maps[0] *= 1000
    maps[1, ..., 0, 0] = 5
    dataset = xr.Dataset(
        {
            "attribution": (("image_id", "target", "explainer", "y", "x"), maps),
            "image": (("image_id", "channel", "y", "x"), np.zeros((4, 1, 2, 2), np.float32)),
            "affine": (("image_id", "world", "voxel"), np.full((4, 4, 4), np.nan)),
            "target_class": (("image_id", "target"), np.ones((4, 1), int)),
        },
        {"class": ["well", "ill"], "explainer": ["a"], "voxel": list("zyx1")},
    )
    ill = np.array([True, True, True, False])
    called = np.stack([~ill, ill], 1)
    groups, scales = mean_maps(
        dataset, called, read_labels(["ill", "ill", "well", "ill"], ["well", "ill"], exclusive=True)
    )
    assert [(group.title, group.images) for group in groups] == [
        ("called ill, rightly", 2),
        ("called ill, wrongly", 1),
        ("ill, but not called so", 1),
    ]
    mean = _mean(dataset.isel(image_id=[0, 1]))["attribution"].values
    assert mean[0, 0].tolist() == [[1.75, 0.75], [0.75, 0.75]]
    assert [scale.explainer for scale in scales] == ["a"]
    assert [group.title for group in mean_maps(dataset, called, None)[0]] == ["called ill", "not called ill"]


def test_choices_take_turns_and_wrong_but_certain_comes_first() -> None:
    probability = np.array([0.6, 0.99, 0.8, 0.9])
    truth = np.array([[True], [False], [False], [True]])
    predictions = Predictions(np.ones((4, 1), bool), truth, np.ones(4, bool), probability, np.array([4.0, 1, 3, 2]))
    dataset = xr.Dataset({"image_flags": ("image_id", [0, 0, 0, 4])}, {"image_id": list("abcd")})
    choices = {choice.name: choice for choice in choose(dataset, predictions)}
    assert choices["uncertain"].rows.tolist() == [0, 2, 3, 1]
    assert choices["wrong but certain"].rows.tolist() == [1, 2]
    assert choices["flagged"].rows.tolist() == [3]
    assert in_turn([choices["wrong but certain"], choices["uncertain"]]) == [1, 0, 2, 3]


def test_what_members_say_is_a_reason_to_show_a_case(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(14))
    views = {"name": "test_time_augmentation", "samples": 2, "label": "views"}
    carry_out(cohort.content(output, explainers=["saliency", "control_random"], uncertainty=[views]), report=True)
    page, dataset = (output / "report/index.html").read().decode(), open_store(output).load()
    found = doubts(dataset)
    assert list(found) == ["uncertainty by views", "maps vary by views", "members of views differ"]
    assert np.allclose(found["maps vary by views"], dataset["uncertainty_views_maps"].sel(explainer="saliency")[:, 0])
    for name in found:
        assert f'{name} <span class="soft">(the most of it)</span></h3>' in page


def test_mean_maps_of_many_classes_leave_room_for_the_rest() -> None:
    groups = [Group(str(number), 1, 1, [Panel("map", "x" * 2**19, 1, 1, 1.0, "")]) for number in range(9)]
    assert [group.title for group in fitting(groups)] == list("0123")


def without_labels(content: dict[str, Any], cohort: Cohort) -> None:
    pd.read_csv(cohort.folder / "manifest.csv").drop(columns="label").to_csv(
        cohort.folder / "manifest.csv", index=False
    )


def damaged(content: dict[str, Any], cohort: Cohort) -> None:
    for number in cohort.numbers:
        (cohort.folder / f"{number}.npy").write_bytes(b"\x93NUMPY")


def of_one_class(content: dict[str, Any], cohort: Cohort) -> None:
    network = NETWORK | {"classes": 1}
    content["model"] = squares_model(cohort.folder, ("a",), network) | {"activation": "sigmoid"}


def of_values(content: dict[str, Any], cohort: Cohort) -> None:
    content["model"] = content["model"] | {"activation": "identity"}


def predicting(content: dict[str, Any], cohort: Cohort) -> None:
    content["explainers"] = ["prediction"]


def as_is(content: dict[str, Any], cohort: Cohort) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "images", "said"),
    [
        (as_is, 1, "no label names a class"),
        (without_labels, 3, "no explained image has a label"),
        (damaged, 1, "<b>No image was explained.</b> What kept them out: damaged"),
        (damaged, 3, "(3 of 3 images)"),
        (of_one_class, 2, "no label names a class"),
        (of_values, 2, "the model's outputs are values"),
        (predicting, 2, "the run made no maps"),
    ],
)
def test_there_is_always_a_page_and_it_says_what_it_lacks(
    tmp_path: Path, change: Callable[[dict[str, Any], Cohort], None], images: int, said: str
) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(images))
    content = cohort.content(output)
    content["cohort"]["allowed_failures"] = 1.0
    change(content, cohort)
    carry_out(content, report=True)
    page = (output / "report/index.html").read().decode()
    assert said in page.replace("&#39;", "'")
    assert (output / "report/cases.png").exists()
    assert write_report(output).read().decode() == page


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (["attribution"], np.nan),
        (["attribution"], 0),
        (["image"], np.nan),
        (["affine"], 0),
        (["metric_gini"], np.nan),
        (["target_class"], -1),
        (["logit", "probability"], np.nan),
        (["attribution", "image", "metric_gini", "probability"], np.nan),
        (["mask"], 255),
        (["mask"], 1),
    ],
)
def test_there_is_a_page_whatever_the_arrays_hold(
    tmp_path: Path, names: list[str], value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(4))
    carry_out(cohort.content(output, metrics=["gini"], explainers=["saliency", "gradcam", "control_random"]))

    def changed(location: Location) -> xr.Dataset:
        dataset = open_store(location).load()
        return dataset.assign({name: xr.full_like(dataset[name], value) for name in names})

    monkeypatch.setattr(tasks.report, "open_store", changed)
    page = write_report(output).read().decode()
    assert page.count('<article class="case"') == 4
    assert "Is the model right?" in page


def test_reasons_are_grouped_and_counted(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(30))
    for number in range(25):
        (cohort.folder / f"{number}.npy").write_bytes(b"\x93NUMPY")
    content = cohort.content(output)
    content["cohort"]["allowed_failures"] = 1.0
    carry_out(content, report=True)
    page = (output / "report/index.html").read().decode()
    assert "25 of 30 images were not explained, for 1 reason" in page
    assert page.count("and 5 more") == 1 and page[page.index("Left out</h2>") :].count("id-") == 20


def test_labels_that_name_no_class_are_told_of(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(6))
    table = pd.read_csv(cohort.folder / "manifest.csv")
    table["label"] = ["a", "b", "A", " b", "a", "A"]
    table.to_csv(cohort.folder / "manifest.csv", index=False)
    carry_out(cohort.content(output), report=True)
    page = (output / "report/index.html").read().decode()
    told = [label for label in ("A", " b") if f"<q>{label}</q>" in page]
    assert told and told[0] == "A" and "<q>A</q> (2)" in page
    assert "On 3 labelled images" in page or "On 4 labelled images" in page  # as the table is read: with blanks or not


def test_no_character_of_a_name_is_obeyed(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(4))
    odd = ("=a\x1b[31m$\\frac$", "_b\u202e")
    content = cohort.content(output, metrics=["gini"])
    content["model"] = squares_model(cohort.folder, odd, NETWORK)
    table = pd.read_csv(cohort.folder / "manifest.csv")
    table["label"] = [odd[0], odd[1]] * 2
    table.to_csv(cohort.folder / "manifest.csv", index=False)
    carry_out(content, report=True)
    page = (output / "report/index.html").read().decode()
    assert not [c for c in page if not (c.isprintable() or c == "\n")]
    assert page.count(r"=a\x1b[31m$\frac$") > 3  # also in the plots
    cells = (output / "report/evidence.csv").read().decode()
    assert "\n'=a" in cells and "\n=a" not in cells


def test_a_map_that_marks_one_side_of_all_images_is_remarked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(Cohort(tmp_path / "cohort", range(4)).content(output, explainers=["saliency", "gradcam"]))
    bars = xr.zeros_like(open_store(output)["attribution"].load())
    bars.loc[{"explainer": "gradcam"}] = 1
    bars[..., :2, :].loc[{"explainer": "gradcam"}] = 9
    bars.loc[{"explainer": "saliency"}] = 1

    monkeypatch.setattr(tasks.report, "open_store", lambda location: open_store(location).assign(attribution=bars))
    page = write_report(output).read().decode()
    assert "gradcam marks the border" in page and "saliency marks the border" not in page
    assert "padding" in page and "crop or pad the images" in page


def test_flags_are_explained(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(3))
    np.save(cohort.folder / "1.npy", np.ones((16, 16), np.float32))
    carry_out(cohort.content(output), report=True)
    page = (output / "report/index.html").read().decode()
    assert "image constant" in page and "all places of the image have one value" in page
    assert "look at the file: it may be empty" in page
