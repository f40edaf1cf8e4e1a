"""The page as a whole: it opens an output, and says so where it cannot."""

import shutil
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.viewer.conftest import Serve


def test_an_output_is_opened(page: Page, serve: Serve, demo: Path) -> None:
    page.goto(f"{serve(demo)}/viewer/index.html#/case/phantom-00001")
    expect(page.get_by_role("main")).to_contain_text("saliency")


def test_a_folder_without_a_store_is_refused_in_words(page: Page, serve: Serve, demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "viewer", tmp_path / "viewer")
    page.goto(f"{serve(tmp_path)}/viewer/index.html")
    expect(page.get_by_role("alert")).to_contain_text("No store here")
