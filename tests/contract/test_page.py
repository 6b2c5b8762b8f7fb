"""The page at `/` in a real browser, used by mouse, by keyboard and by dropping files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.jobs import Server, running_server

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")


@pytest.fixture(scope="module")
def server(trained_job: Path) -> Iterator[Server]:
    with running_server(trained_job / "model", MAX_CONTENT_LENGTH="200000") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # A browser of root has no sandbox; the only page it opens here is ours.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page in a window of its own; nothing may be complained about or fetched elsewhere."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    opened = context.new_page()
    complaints: list[str] = []
    fetched: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: fetched.append(request.url))
    opened.goto(f"http://127.0.0.1:{server.port}/")
    yield opened
    context.close()
    # The browser itself notes every answer of 4xx; anything else is a fault of the page.
    assert not [text for text in complaints if "Failed to load resource" not in text]
    origin = f"http://127.0.0.1:{server.port}/"
    assert fetched and all(url.startswith((origin, f"blob:{origin}")) for url in fetched)


@pytest.fixture
def red(small_channels: dict[str, Path]) -> Path:
    return small_channels["validation"] / "red" / "red000.jpg"


def bars(page: Any) -> dict[str, str]:
    """Class → shown percentage, once the answer is there."""
    page.locator("#bars").wait_for(state="visible")
    rows = page.locator("#bars tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").first.inner_text() for row in rows}


def expected_bars(server: Server, image: Path) -> dict[str, str]:
    """What the server says of the image, as the page writes it."""
    headers = {"Content_Type": "image/jpeg", "Accept": "application/json;top_k=10"}
    answer = json.loads(server.invoke(image.read_bytes(), **headers).body)
    pairs = zip(answer["labels"], answer["probabilities"], strict=True)
    return {label: f"{100 * probability:.1f}%" for label, probability in pairs}


@needs_browser
def test_a_chosen_file_is_answered_with_bars_and_the_time(
    page: Any, server: Server, red: Path
) -> None:
    page.emulate_media(reduced_motion="reduce")  # else the bars grow for a moment
    page.get_by_label("Choose an image").set_input_files(red)
    shown = bars(page)
    assert shown == expected_bars(server, red) and next(iter(shown)) == "red"
    assert page.get_by_role("status").inner_text() == f"red, {shown['red']}"
    assert "Answered in" in page.locator("#timing").inner_text()
    widths = page.locator(".bar").evaluate_all(
        "bars => bars.map(b => b.offsetWidth / b.parentNode.offsetWidth)"
    )
    assert widths == pytest.approx([float(text[:-2]) / 100 for text in shown.values()], abs=0.02)
    assert page.locator("#preview").evaluate("image => image.naturalWidth") == 48


@needs_browser
def test_a_file_dropped_anywhere_on_the_page_is_answered(
    page: Any, server: Server, red: Path
) -> None:
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(red)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"type": kind, "x": 300, "y": 300, "data": data}
        session.send("Input.dispatchDragEvent", place)
    assert bars(page) == expected_bars(server, red)


@needs_browser
def test_a_pasted_image_is_answered(page: Any, server: Server, red: Path) -> None:
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "pasted.jpg", {type: "image/jpeg"}));
            const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
            document.body.dispatchEvent(event);
        }""",
        list(red.read_bytes()),
    )
    assert bars(page) == expected_bars(server, red)


@needs_browser
def test_the_keyboard_alone_is_enough(page: Any, server: Server, red: Path) -> None:
    # Chromium hands its file dialog over only from a while after this on.
    page.on("filechooser", lambda chooser: chooser.set_files(red))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    outline = page.get_by_text("Choose an image", exact=True)
    assert outline.evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert bars(page) == expected_bars(server, red)


@needs_browser
def test_a_screen_reader_finds_names_and_roles(page: Any, red: Path) -> None:
    assert page.locator("html").get_attribute("lang") == "en"
    for heading in ("Image classification", "Image", "Answer", "Model"):
        assert page.get_by_role("heading", name=heading, exact=True).count() == 1
    page.get_by_label("Choose an image").set_input_files(red)
    bars(page)
    assert page.get_by_role("table", name="The most probable classes").count() == 1
    assert page.get_by_role("rowheader", name="red").count() == 1
    assert page.get_by_role("columnheader", name="Probability").count() == 1
    assert page.get_by_alt_text("Preview of red000.jpg").is_visible()
    facts = page.locator("dl").inner_text()
    assert "resnet20" in facts and "32 × 32 pixels, RGB" in facts


@needs_browser
def test_an_unusable_file_shows_an_error_and_the_next_image_is_answered(
    page: Any, server: Server, red: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8" + b"\0" * 200_000)
    choose = page.get_by_label("Choose an image")
    for name, said in (("broken.jpg", "cannot be used"), ("large.jpg", "MAX_CONTENT_LENGTH")):
        choose.set_input_files(tmp_path / name)
        page.get_by_role("alert").wait_for(state="visible")
        page.get_by_role("alert").get_by_text(said).wait_for()
        assert not page.locator("#bars").is_visible()
    choose.set_input_files(red)
    assert bars(page) == expected_bars(server, red)
    assert not page.get_by_role("alert").is_visible()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark_and_nothing_is_wider_than_a_phone(
    page: Any, red: Path, scheme: str
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 320, "height": 700})
    page.get_by_label("Choose an image").set_input_files(red)
    bars(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) >= 5 and min(contrasts.values()) >= 4.5, contrasts  # WCAG 2.2, 1.4.3


CONTRASTS = """() => {
    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = numbers(color).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return numbers(color)[3] === 0 ? behind(element.parentElement) : color;
    };
    const found = {};
    for (const name of ["h1", "header p", "#invitation", ".button", "#status", "#timing", "dt"]) {
        const element = document.querySelector(name);
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
        found[name] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }
    return found;
}"""


def test_the_page_has_a_strict_policy_and_loads_nothing_else(server: Server) -> None:
    answer = server.get("/")
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for path in ("/page.css", "/page.js", "/icon.svg"):
        part = server.get(path)
        assert part.status == 200 and part.body
        for foreign in (b"http://", b"https://", b"@import"):
            assert foreign not in part.body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"{{" not in answer.body


def test_without_the_page_its_paths_are_unknown(trained_job: Path) -> None:
    with running_server(trained_job / "model", IMAGE_CLASSIFICATION_PAGE="false") as server:
        for path in ("/", "/page.css", "/page.js", "/icon.svg"):
            answer = server.get(path)
            assert answer.status == 404 and "POST /invocations" in json.loads(answer.body)["error"]
