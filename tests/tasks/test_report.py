from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tasks.finish import finish
from tasks.report import entropy, write_report
from tasks.report.pictures import Scale, _outline, _slice
from tasks.shard import explain_shards
from tasks.storage import Location
from tests.tasks.conftest import Planned


@pytest.fixture
def page(tmp_path: Path, planned: Planned) -> str:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output)
    explain_shards(output, range(len(plan.shards)))
    finish(output)
    return write_report(output).read().decode()


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    for reference in ("http://", "https://", "<script", "<link", "file://", "@import"):
        assert reference not in page
    assert page.count("<article>") == 24
    assert page.count("data:image/png;base64,") == 24 * 5 + 4
    assert "the lesions are planted" in page
    assert "Left out" in page
    assert page.count("damaged-0000") == 3


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
    explain_shards(output, range(len(plan.shards)))
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
    maps = np.zeros((2, 1, 7, 4, 4))
    maps[0, 0, 5, 1, 2] = -3
    maps[1] = np.nan
    volume = xr.Dataset({"attribution": (("target", "explainer", "z", "y", "x"), maps)})
    assert [_slice(volume, target) for target in (0, 1, None)] == [5, 3, 3]


def test_a_scale_shows_its_ends_and_its_middle() -> None:
    signed, positive = Scale("a", 2.0, signed=True), Scale("b", 2.0, signed=False)
    low, zero, high = signed.colours(np.array([-9.0, 0.0, 2.0]))
    assert zero.min() > 0.8  # near white
    assert np.abs(low - high).max() > 0.4
    dark, light = positive.colours(np.array([0.0, 5.0]))
    assert dark.max() < 0.1
    assert light.max() > 0.9


def test_entropy_is_in_bits() -> None:
    assert entropy(np.array([[0.5, 0.5], [1.0, 0.0]]), "softmax").tolist() == [1.0, 0.0]
    assert np.allclose(entropy(np.array([[0.5, 0.999], [0.01, 0.99]]), "sigmoid"), [1.0, 0.0808], atol=1e-3)
