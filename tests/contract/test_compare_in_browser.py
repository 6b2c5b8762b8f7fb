"""The page of `compare` in a real browser: three widths, both color schemes, eight runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from image_classification.cli import main
from tests.contract.test_report_in_browser import CUT_OFF, PALE_TEXT, browser, opened, pytestmark

__all__ = ["browser", "pytestmark"]  # a fixture, and marks


@pytest.fixture(scope="module")
def pages(
    two_runs: tuple[Path, Path],
    run_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """A page of eight runs with long names, and one with pictures."""
    root = tmp_path_factory.mktemp("compared")
    many = [root / f"a-run-with-a-rather-long-name-{number}" for number in range(8)]
    for number, path in enumerate(many):
        shutil.copytree(two_runs[number % 2], path)
    assert main(["compare", *map(str, many), "--output", str(root / "many.html")]) == 0
    words = [*map(str, two_runs), "--data", str(run_data), "--output", str(root / "two.html")]
    assert main(["compare", *words]) == 0
    return [root / "many.html", root / "two.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_nothing_of_the_comparison_is_cut_off_and_every_text_has_contrast(
    browser: Any,
    pages: list[Path],
    width: int,
    scheme: str,
) -> None:
    for page in pages:
        tab = opened(browser, page, width, scheme)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        outside = tab.evaluate(CUT_OFF)
        scrolled = ("<table", "<tr", "<th", "<td", "<thead", "<tbody")  # in a box that scrolls
        assert [text for text in outside if not text.startswith(scrolled)] == []
        assert tab.evaluate(PALE_TEXT) == []
        tab.context.close()
