"""The pages of jobs and commands in a real browser: widths, both color schemes, printed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_classification.cli import main

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
pytestmark = [
    pytest.mark.thorough,  # with torch, each run shows it
    pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH"),
]

OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true })"

CUT_OFF = """() => [...document.querySelectorAll('body *')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width && !one.closest('.unseen') && (box.right > innerWidth + 1 || box.left < -1);
}).map(one => one.outerHTML.slice(0, 120))"""

# WCAG 2's ratio of contrast of every text with what is behind it.
PALE_TEXT = """() => {
    const parsed = text => {
        const found = text.match(/[\\d.]+/g).map(Number);
        return found.length === 3 ? [...found, 1] : found;
    };
    const over = (top, under) =>
        top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
    const behind = one => one === null ? [255, 255, 255] :
        over(parsed(getComputedStyle(one).backgroundColor), behind(one.parentElement));
    const light = color => color.map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const pale = [];
    while (walker.nextNode()) {
        const node = walker.currentNode, parent = node.parentElement;
        if (!node.data.trim() || parent.closest('title')) continue;
        if (!parent.getClientRects().length) continue;
        const style = getComputedStyle(parent), back = behind(parent.closest('svg') ?? parent);
        const ink = over(parsed(parent.closest('svg') ? style.fill : style.color), back);
        const [high, low] = [light(ink), light(back)].sort((a, b) => b - a);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) pale.push([node.data.trim().slice(0, 40), ratio.toFixed(2)]);
    }
    return pale;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # A browser of root has no sandbox; the only pages it opens here are ours.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(doubtful_job: Path) -> Path:
    return doubtful_job / "model" / "report.html"


@pytest.fixture(scope="module")
def pages(doubtful_job: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages by the name of the command that writes them."""
    root, data = tmp_path_factory.mktemp("pages"), doubtful_job / "input/data/validation"
    model = str(doubtful_job / "model")
    evaluation = ["evaluate", str(data), "--model", model, "--report", str(root / "report")]
    assert main(evaluation) == 2, "an image is unreadable"
    assert main(["check", str(data), "--html", str(root / "check.html")]) == 1
    return {
        "train": doubtful_job / "model/report.html",
        "evaluate": root / "report/report.html",
        "check": root / "check.html",
    }


def opened(browser: Any, page: Path, width: int, scheme: str) -> Any:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=True
    )
    tab = context.new_page()
    fetched: list[str] = []
    tab.on("request", lambda request: fetched.append(request.url))
    tab.goto(page.as_uri())
    assert [url for url in fetched if not url.startswith("data:")] == [page.as_uri()]
    return tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("command", "width"),
    [("train", 390), ("train", 820), ("train", 1280), ("evaluate", 390), ("check", 390)],
)
def test_nothing_is_cut_off_and_every_text_has_contrast(
    browser: Any, pages: dict[str, Path], command: str, width: int, scheme: str
) -> None:
    tab = opened(browser, pages[command], width, scheme)
    tab.evaluate(OPEN_ALL)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(CUT_OFF) == []
    assert tab.evaluate(PALE_TEXT) == []
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    tab.context.close()


def test_every_picture_and_chart_says_what_it_shows(browser: Any, report: Path) -> None:
    tab = opened(browser, report, 820, "light")
    texts = tab.locator("img").evaluate_all("all => all.map(one => one.alt)")
    assert len(texts) > 30 and all(texts)
    assert any(text == "red predicted as blue" for text in texts)
    assert any(text.startswith("augmented image of ") for text in texts)
    charts = tab.locator("svg").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label') ?? one.getAttribute('aria-hidden'))"
    )
    assert len(charts) > 8 and all(charts)
    tab.context.close()


def test_a_number_of_the_matrix_opens_its_images_below_it(browser: Any, report: Path) -> None:
    tab = opened(browser, report, 820, "light")
    cells = tab.locator(".cell")
    assert cells.count() >= 3 and not any(cell.is_visible() for cell in cells.all())
    link = tab.locator(".matrix a[href='#cell-2-0']")  # red predicted as blue
    assert link.inner_text() == "8"
    link.click()
    (shown,) = [cell for cell in cells.all() if cell.is_visible()]
    assert "red predicted as blue" in shown.inner_text()
    assert shown.locator("img").count() == 8
    names = shown.locator(".path").all_inner_texts()
    assert sorted(names) == [f"red/blue{number:03d}.jpg" for number in range(8)]
    tab.context.close()


def test_the_printed_page_is_light_and_whole(browser: Any, report: Path) -> None:
    tab = opened(browser, report, 700, "dark")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate(PALE_TEXT) == []
    assert tab.evaluate(CUT_OFF) == []
    assert tab.get_by_text("Outside the step").first.is_visible(), "details are open"
    assert not tab.locator("nav").is_visible() and not tab.locator("pre").is_visible()
    assert tab.pdf(format="A4").startswith(b"%PDF")
    tab.context.close()
