"""The page at `/` in a real browser, used by mouse, by keyboard and by dropping files."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.contract.jobs import Server, running_server

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")


@pytest.fixture(scope="module")
def server(trained_job: Path) -> Iterator[Server]:
    limits = {"MAX_CONTENT_LENGTH": "200000", "IMAGE_CLASSIFICATION_MAX_PIXELS": "1000000"}
    with running_server(trained_job / "model", **limits) as running:
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
    """Class → shown percentage of the first image, once the answer is there."""
    page.locator(".bars").first.wait_for(state="visible")
    rows = page.locator(".bars").first.locator("tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").first.inner_text() for row in rows}


def expected_bars(server: Server, image: Path) -> dict[str, str]:
    """What the server says of the image, as the page writes it."""
    headers = {"Content_Type": "image/jpeg", "Accept": "application/json;top_k=10"}
    answer = json.loads(server.invoke(image.read_bytes(), **headers).body)
    pairs = zip(answer["labels"], answer["probabilities"], strict=True)
    return {label: f"{100 * probability:.1f}%" for label, probability in pairs}


def choose(page: Any, *images: Path) -> None:
    page.get_by_label("Choose images").set_input_files(list(images))


def drop(page: Any, *files: Path) -> None:
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def status(page: Any, text: str) -> None:
    """Wait until the line that a screen reader reads aloud has the text."""
    page.get_by_role("status").get_by_text(text, exact=True).wait_for()


def write_noise(path: Path, width: int, height: int) -> Path:
    """Write an image that compresses badly."""
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@needs_browser
def test_a_chosen_file_is_answered_with_bars_and_the_time(
    page: Any, server: Server, red: Path
) -> None:
    choose(page, red)
    shown = bars(page)
    assert shown == expected_bars(server, red) and next(iter(shown)) == "red"
    status(page, f"red000.jpg: red, {shown['red']}")
    assert "Answered in" in page.locator(".timing").inner_text()
    widths = page.locator(".bar").evaluate_all(
        "bars => bars.map(b => b.offsetWidth / b.parentNode.offsetWidth)"
    )
    assert widths == pytest.approx([float(text[:-2]) / 100 for text in shown.values()], abs=0.02)
    assert page.locator(".preview").evaluate("image => image.naturalWidth") == 48


@needs_browser
def test_files_dropped_anywhere_on_the_page_become_a_gallery_in_their_order(
    page: Any, server: Server, small_channels: dict[str, Path]
) -> None:
    names = ("red", "green", "blue")
    files = [small_channels["validation"] / name / f"{name}000.jpg" for name in names]
    drop(page, *files)
    status(page, "3 of 3 images answered.")
    cards = page.locator("#gallery > li")
    assert cards.locator(".name").all_inner_texts() == [file.name for file in files]
    for card, file in zip(cards.all(), files, strict=True):
        label, percent = next(iter(expected_bars(server, file).items()))
        assert card.locator(".verdict").inner_text() == f"{label}, {percent}"
    drop(page, files[0])  # a later one comes first
    status(page, "4 of 4 images answered.")
    assert cards.locator(".name").first.inner_text() == "red000.jpg"
    page.get_by_role("button", name="Clear").click()
    status(page, "No images yet.")
    assert cards.count() == 0


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
def test_a_dropped_folder_is_refused_in_words(page: Any, red: Path) -> None:
    drop(page, red.parent)
    page.get_by_role("alert").get_by_text("A folder cannot be dropped here").wait_for()
    assert page.locator("#gallery > li").count() == 0


@needs_browser
def test_the_keyboard_alone_is_enough(page: Any, server: Server, red: Path) -> None:
    # Chromium hands its file dialog over only from a while after this on.
    page.on("filechooser", lambda chooser: chooser.set_files(red))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    outline = page.get_by_text("Choose images", exact=True)
    assert outline.evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert bars(page) == expected_bars(server, red)
    reached = set()
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent"))
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            page.keyboard.press("Enter")
    assert {"Clear", "As a command", "Copy as curl", "Copy"} <= reached


@needs_browser
def test_a_screen_reader_finds_names_and_roles(page: Any, red: Path) -> None:
    assert page.locator("html").get_attribute("lang") == "en"
    for heading in ("Image classification", "Images", "Use it from a program", "Model"):
        assert page.get_by_role("heading", name=heading, exact=True).count() == 1
    choose(page, red)
    bars(page)
    assert page.get_by_role("list", name="Images and their answers").count() == 1
    assert page.get_by_role("heading", name="red000.jpg").count() == 1
    table = page.get_by_role("table", name="The most probable classes of red000.jpg")
    assert table.count() == 1
    assert page.get_by_role("rowheader", name="red").count() == 1
    assert page.get_by_role("columnheader", name="Probability").count() == 1
    assert page.get_by_alt_text("Preview of red000.jpg").is_visible()
    facts = page.locator("dl").inner_text()
    assert "resnet20" in facts and "32 × 32 pixels, RGB" in facts
    assert "as SageMaker's Image Classification – MXNet" in facts


@needs_browser
def test_an_unusable_file_shows_its_error_and_the_other_images_are_answered(
    page: Any, server: Server, red: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8" + b"\0" * 200_000)
    choose(page, tmp_path / "broken.jpg", red, tmp_path / "large.jpg")
    status(page, "1 of 3 images answered, 2 without an answer.")
    broken, _, large = page.locator(".problem").all_inner_texts()
    assert broken.startswith("The image cannot be used")
    assert "195 KB" in large and "save it as a smaller JPEG" in large
    verdicts = page.locator(".verdict:visible").all_inner_texts()
    assert verdicts == [f"red, {expected_bars(server, red)['red']}"]


@needs_browser
def test_a_server_that_has_ended_is_named_and_the_image_can_be_sent_again(
    page: Any, server: Server, red: Path
) -> None:
    page.route("**/invocations", lambda route: route.abort())
    choose(page, red)
    page.get_by_text("The server cannot be reached. Is it still running?", exact=True).wait_for()
    page.unroute("**/invocations")
    page.get_by_role("button", name="Try again").click()
    assert bars(page) == expected_bars(server, red)
    assert not page.locator(".problem").is_visible()


@needs_browser
@pytest.mark.parametrize(
    ("width", "height", "bound"), [(500, 300, "195 KB"), (1200, 1000, "1.0 m")]
)
def test_an_image_above_a_limit_of_the_server_is_shrunk_first_and_the_page_says_so(
    page: Any, server: Server, tmp_path: Path, width: int, height: int, bound: str
) -> None:
    if bound == "195 KB":
        large = write_noise(tmp_path / "large.png", width, height)
        assert large.stat().st_size > 200_000
    else:
        large = tmp_path / "large.png"
        Image.new("RGB", (width, height), "red").save(large)
        assert large.stat().st_size < 200_000
    choose(page, large)
    shown = bars(page)
    note = page.locator(".note").inner_text()
    assert f"limit of {bound}" in note and f"shrunk here from {width} × {height} to" in note
    page.get_by_text("As a command", exact=True).click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save the shrunk image as large-small.jpg").click()
    small = Path(saved.value.path())
    with Image.open(small) as image:
        assert image.width * image.height <= 1_000_000 and image.width / image.height > 1.1
    assert small.stat().st_size <= 200_000 and shown == expected_bars(server, small)
    assert "@large-small.jpg" in page.locator(".command").inner_text()


@needs_browser
def test_the_copied_command_sends_the_same_file_whatever_its_name_is(
    page: Any, server: Server, red: Path, tmp_path: Path
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for name in ("it's $(red) & `blue`!.jpg", '-x \\ "red".jpg', "two\nlines.jpg", "-"):
        shutil.copy(red, tmp_path / name)
        with page.expect_request("**/invocations") as sent:
            choose(page, tmp_path / name)
        shown = bars(page)
        page.get_by_text("As a command", exact=True).click()
        page.get_by_role("button", name="Copy as curl").click()
        page.get_by_text("Copied", exact=True).wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert f"'{sent.value.url}'" in copied
        command = ["bash", "-c", copied]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        answer = json.loads(done.stdout)
        assert f"{100 * answer['probabilities'][0]:.1f}%" == shown[answer["predicted_label"]]
        page.get_by_role("button", name="Clear").click()


@needs_browser
def test_the_url_of_the_api_is_shown_and_can_be_copied(page: Any, server: Server) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the URL").click()
    page.get_by_text("Copied", exact=True).wait_for()
    url = page.evaluate("navigator.clipboard.readText()")
    assert url == f"http://127.0.0.1:{server.port}/invocations"
    assert shlex.split(page.locator("#example").inner_text())[-1] == url


@needs_browser
def test_thousands_of_files_are_bounded_in_number_and_in_requests_at_a_time(
    page: Any, red: Path
) -> None:
    page.evaluate("""() => {
        window.most = window.asked = 0;
        window.fetch = async () => {
            const running = [...document.querySelectorAll(".verdict")]
                .filter((verdict) => verdict.textContent === "Predicting …");
            window.asked += 1;
            window.most = Math.max(window.most, running.length);
            await new Promise((resolve) => setTimeout(resolve, 1));
            const answer = {labels: ["red"], probabilities: [1], predicted_label: "red"};
            return new Response(JSON.stringify(answer));
        };
    }""")
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            for (let i = 0; i < 3000; i += 1)
                data.items.add(new File([new Uint8Array(bytes)], `${i}.jpg`, {type: "image/jpeg"}));
            const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
            document.body.dispatchEvent(event);
        }""",
        list(red.read_bytes()),
    )
    status(page, "100 of 100 images answered.")
    assert "the first 100 of 3,000 files" in page.get_by_role("alert").inner_text()
    assert page.locator("#gallery > li").count() == 100
    assert page.evaluate("[window.most, window.asked]") == [2, 100]


@needs_browser
def test_a_busy_server_is_asked_again_after_the_time_that_it_names(page: Any, red: Path) -> None:
    answers = [503]

    def answer(route: Any) -> None:
        if answers:
            route.fulfill(status=answers.pop(), headers={"Retry-After": "1"}, body="{}")
        else:
            route.continue_()

    page.route("**/invocations", answer)
    choose(page, red)
    assert next(iter(bars(page))) == "red" and not answers


@needs_browser
def test_an_answer_of_the_models_own_code_is_shown_as_it_is(page: Any, red: Path) -> None:
    page.route("**/invocations", lambda route: route.fulfill(status=200, body='{"ripe": true}'))
    choose(page, red)
    page.get_by_text('"ripe": true').wait_for()
    assert page.locator(".verdict").inner_text() == "Answer of the model's own code:"


@needs_browser
def test_several_classes_of_one_image_are_all_named(page: Any, red: Path) -> None:
    body = {"labels": ["a", "b"], "probabilities": [0.9, 0.8], "predicted_labels": ["a", "b"]}
    page.route("**/invocations", lambda route: route.fulfill(status=200, body=json.dumps(body)))
    choose(page, red)
    assert bars(page) == {"a": "90.0%", "b": "80.0%"}
    assert page.locator(".verdict").inner_text() == "a, b"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark_and_nothing_is_wider_than_a_phone(
    page: Any, red: Path, tmp_path: Path, scheme: str
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 320, "height": 700})
    large = write_noise(tmp_path / ("a-long-name-" * 12 + ".png"), 500, 300)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    choose(page, red, large, tmp_path / "broken.jpg")
    status(page, "2 of 3 images answered, 1 without an answer.")
    for summary in page.get_by_text("As a command", exact=True).all():
        if summary.is_visible():
            summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) >= 12 and min(contrasts.values()) >= 4.5, contrasts  # WCAG 2.2, 1.4.3


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
    const names = ["h1", "header p", "#invitation", ".button", "#status", ".name", ".timing",
        ".problem", ".note:not([hidden])", "button", "summary", ".save[download]", ".command",
        "dt"];
    for (const name of names) {
        const element = document.querySelector(name);
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
        found[name] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }
    return found;
}"""


PARTS = ("/page.css", "/page.js", "/shrink.js", "/curl.js", "/icon.svg")


def test_the_page_has_a_strict_policy_and_loads_nothing_else(server: Server) -> None:
    answer = server.get("/")
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for path in PARTS:
        part = server.get(path)
        assert part.status == 200 and part.body
        for foreign in (b"http://", b"https://", b"@import"):
            assert foreign not in part.body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"{{" not in answer.body


def test_without_the_page_its_paths_are_unknown(trained_job: Path) -> None:
    with running_server(trained_job / "model", IMAGE_CLASSIFICATION_PAGE="false") as server:
        for path in ("/", *PARTS):
            answer = server.get(path)
            assert answer.status == 404 and "POST /invocations" in json.loads(answer.body)["error"]
