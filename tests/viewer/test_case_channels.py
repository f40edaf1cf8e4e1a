"""The case view on colours, sequences and slides, on maps with nothing to see, and on what else a store holds."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from models.flags import MapFlag
from models.outputs import IMAGE_ID, Axis, Output
from tasks.cohort.slides.outputs import declare_slide
from tests.viewer.conftest import Serve
from tests.viewer.looking import eventually, expect_colours, expect_told, open_case, panel, pixels
from tests.viewer.stores import write_store

SIDE = 12
INNER = np.s_[2:-3, 2:-2]


def arrays(channels: int, maps: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    return {
        "image": random.uniform(0, 1, (1, channels, SIDE, SIDE)).astype(np.float32),
        "attribution": random.normal(0, 1, (1, 1, maps, SIDE, SIDE)).astype(np.float32),
        "attribution_channel": random.normal(0, 1, (1, 1, maps, channels, SIDE, SIDE)).astype(np.float32),
        "affine": affine[None],
    }


def test_three_channels_without_names_are_colours(page: Page, serve: Serve, tmp_path: Path) -> None:
    given = arrays(3)
    write_store(tmp_path, given, channels=("0", "1", "2"))
    open_case(page, serve(tmp_path), "case-0", "window=0.5,1")
    expected = 255 * given["image"][0].transpose(1, 2, 0)
    expect_colours(panel(page, "image, colours"), expected, 3, INNER)


def test_sequences_are_chosen_by_name_with_their_maps(page: Page, serve: Serve, tmp_path: Path) -> None:
    given = arrays(2)
    write_store(tmp_path, given, channels=("flair", "t1"))
    open_case(page, serve(tmp_path), "case-0", "window=0.5,1&explainers=attribution_channel:map0:t1&y=4&x=7")
    page.get_by_role("combobox", name="channel").select_option("t1")
    expect(panel(page, "image, t1")).to_be_visible()
    page.get_by_role("spinbutton", name="level").fill("0.5")
    page.get_by_role("spinbutton", name="level").press("Tab")
    page.get_by_role("spinbutton", name="width").fill("1")
    page.get_by_role("spinbutton", name="width").press("Tab")
    page.mouse.move(0, 0)
    expect_told(page, "image, t1", float(given["image"][0, 1, 4, 7]))
    expect_told(page, "attribution_channel, map0, t1", float(given["attribution_channel"][0, 0, 0, 1, 4, 7]))
    seen = np.zeros((SIDE, SIDE), bool)
    seen[INNER] = True
    seen[4, :] = seen[:, 7] = False  # the crosshair
    expect_colours(panel(page, "image, t1"), 255 * given["image"][0, 1], 3, seen)


def test_maps_with_nothing_to_see_say_so_in_words(page: Page, serve: Serve, tmp_path: Path) -> None:
    given = arrays(1, maps=4)
    given["attribution"][0, 0, 0] = 0
    given["attribution"][0, 0, 1] = np.nan
    given["attribution"][0, 0, 2] = np.nan
    given["attribution"][0, 0, 3, 5, 5] = np.nan
    given["map_flags"] = np.array([[[MapFlag.BLANK, MapFlag.NOT_FINITE, 0, MapFlag.NOT_FINITE]]])
    given["target_class"] = np.ones((1, 1))
    write_store(tmp_path, given)
    open_case(page, serve(tmp_path), "case-0", "explainers=map0,map1,map2,map3")
    expect(panel(page, "map0")).to_contain_text("every value of it is zero")
    expect(panel(page, "map1")).to_contain_text("no value of it is a number")
    expect(panel(page, "map2").get_by_role("alert")).to_contain_text("cohortlens verify --repair")
    expect(panel(page, "map3")).to_contain_text("1 of 144 places are not finite")
    expect(page.get_by_label("Flags")).to_contain_text("map blank: map0")
    expect(panel(page, "map0").locator("canvas")).to_have_count(0)


@pytest.mark.parametrize("shared", [True, False])
def test_colours_that_are_of_one_case_alone_are_said_to_be(
    page: Page, serve: Serve, tmp_path: Path, shared: bool
) -> None:
    write_store(tmp_path, arrays(1), shared=shared)
    open_case(page, serve(tmp_path), "case-0")
    expect(panel(page, "map0").locator(".legend")).to_be_visible()
    expect(page.get_by_text("Colours of this case alone")).to_have_count(0 if shared else 1)


def test_what_the_store_declares_is_shown_by_its_kind(page: Page, serve: Serve, tmp_path: Path) -> None:
    given = {name: np.repeat(values, 3, axis=0) for name, values in arrays(1).items()}
    ranks, fields = Axis(name="neighbour", labels=(1.0, 2.0)), Axis(name="field", labels=("age", "dose"))
    near = "row of the nearest images; -1 where there is none"
    more = [
        Output(
            name="similar_image",
            dims=(IMAGE_ID, "neighbour"),
            kind="result",
            long_name=near,
            dtype="int32",
            fill=-1,
            axes=(ranks,),
        ),
        Output(name="similar_cosine", dims=(IMAGE_ID, "neighbour"), kind="result", long_name="cosine", axes=(ranks,)),
        Output(name="explanation_text", dims=(IMAGE_ID,), kind="text", long_name="words", dtype="string", longest=99),
        Output(name="record", dims=(IMAGE_ID, "field"), kind="image", long_name="record", axes=(fields,)),
        Output(name="uncertainty_x_entropy", dims=(IMAGE_ID,), kind="uncertainty", long_name="doubt", units="bit"),
        Output(name="novelty", dims=(IMAGE_ID,), kind="result", long_name="a number nobody knew of"),
    ]
    given |= {
        "similar_image": np.array([[2, -1]] * 3),
        "similar_cosine": np.array([[0.875, np.nan]] * 3),
        "explanation_text": np.array(["<b>The network</b> saw it."] * 3, object),
        "record": np.array([[61, 0.5]] * 3),
        "uncertainty_x_entropy": np.full(3, 0.25),
        "novelty": np.full(3, 42),
    }
    write_store(tmp_path, given, more=more)
    open_case(page, serve(tmp_path), "case-0")
    beside = page.get_by_role("complementary")
    expect(beside).to_contain_text("<b>The network</b> saw it.")
    expect(beside.get_by_role("row", name="dose")).to_contain_text("0.5")
    expect(beside).to_contain_text("0.25 bit")
    beside.get_by_text("More of the store").click()
    expect(beside).to_contain_text("a number nobody knew of")
    expect(beside.get_by_text("42", exact=True)).to_be_visible()
    expect(beside.get_by_role("listitem")).to_have_text(["case-2 cosine 0.875"])
    beside.get_by_role("link", name="case-2").click()
    expect(page.get_by_role("heading", name="case-2")).to_be_visible()


@pytest.mark.parametrize("first", [0, np.nan])
def test_a_slide_is_shown_whole_and_by_its_tiles(page: Page, serve: Serve, tmp_path: Path, first: float) -> None:
    tiles, side = 3, 8
    random = np.random.default_rng(2)
    attribution = np.zeros((1, 1, 1, tiles, side, side))
    attribution[..., 0, :, :], attribution[..., 1, :, :] = first, 1
    corners = np.array([[[0, 0], [0, 512], [-1, -1]]])
    given: dict[str, np.ndarray] = {
        "image": random.uniform(0, 1, (1, 3, tiles, side, side)).astype(np.float32),
        "attribution": attribution,
        "tile_position": corners,
        "tile_side": np.array([512]),
        "slide_size": np.array([[512, 1024]]),
        "slide_overview": np.full((1, 3, 512, 512), 200),
    }
    write_store(tmp_path, given, channels=("0", "1", "2"), more=declare_slide())
    open_case(page, serve(tmp_path), "case-0")
    slide = panel(page, "slide")
    expect(slide).to_contain_text("mean of map0 by tile")

    def drawn() -> None:
        picture = pixels(slide)
        assert picture.shape[:2] == (256, 512)
        assert tuple(picture[128, 128]) != tuple(picture[128, 384])  # the second tile has all of the map

    eventually(page, drawn)
    expect(page.get_by_text("slice 2 of 3")).to_be_visible()
    box = slide.locator("canvas").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    expect(page.get_by_text("slice 1 of 3")).to_be_visible()
