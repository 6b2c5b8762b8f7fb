"""Make the pictures of docs/gallery.md: train on drawn images, and take each page in Chromium.

The images are those that notebooks/quickstart.ipynb draws, a few of them under a wrong label.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import terminal_picture
from PIL import Image
from playwright.sync_api import sync_playwright

import image_classification as ic

REPOSITORY = Path(__file__).parent.parent
COMMAND = str(Path(sys.executable).with_name("image-classification"))
WIDTH, HEIGHT = 1200, 900
MOST_BYTES = 150_000  # of a picture
PER_CLASS, PER_TEST_CLASS = 60, 20


def main(folder: Path) -> int:
    """Write the pictures to the folder; return 0."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment["LANG"] = "C.UTF-8"
    with tempfile.TemporaryDirectory() as scratch, browser() as chromium:
        work = Path(scratch)
        draw_images(work)

        def terminal(name: str, *words: str) -> None:
            page = terminal_picture.shown([COMMAND, *words], work, environment, columns=100)
            take(chromium, work, folder / name, page=page, element="pre")

        epochs = ("--set", "epochs=16")
        terminal("train.webp", "train", "fabrics", "--output", "runs/a", *epochs)
        run(work, "train", "fabrics", "--output", "runs/b", *epochs, "--set", "feature_copies=1")
        terminal("evaluate.webp", "evaluate", "test", "--model", "runs/a")
        check = ("check", "fabrics", "--label-errors", "--html", "check.html")
        run(work, *check, may_find=True)
        compared = ("compare", "runs/a", "runs/b", "--data", "test", "--output", "compare.html")
        run(work, *compared)
        take(chromium, work, folder / "check.webp", file=work / "check.html", at="Images with")
        take(chromium, work, folder / "compare.webp", file=work / "compare.html")
        report = work / "runs" / "a" / "report.html"
        take(chromium, work, folder / "report.webp", file=report)
        for heading in ("Confusion", "Mistakes", "Labels to review", "Calibration", "Training"):
            name = f"report-{heading.split()[0].lower()}.webp"
            take(chromium, work, folder / name, file=report, at=heading)
        take(chromium, work, folder / "report-dark.webp", file=report, at="Training", scheme="dark")
        take_server(chromium, work, folder)
    total = sum(path.stat().st_size for path in folder.glob("*.webp"))
    sys.stdout.write(f"{folder}: {len(list(folder.glob('*.webp')))} pictures, {total:,} bytes\n")
    return 0


def draw_images(work: Path) -> None:
    """Write the class folders `fabrics`, with two wrong labels per class, and `test`."""
    notebook = json.loads((REPOSITORY / "notebooks" / "quickstart.ipynb").read_text("utf-8"))
    cell = next(
        "".join(c["source"]) for c in notebook["cells"] if "def draw(" in "".join(c["source"])
    )
    names: dict[str, Any] = {}
    exec(cell.partition("images = Path(")[0], names)  # noqa: S102 - our own cell, which draws
    patterns = names["PATTERNS"]
    for folder, count in (("fabrics", PER_CLASS), ("test", PER_TEST_CLASS)):
        for pattern in patterns:
            (work / folder / pattern).mkdir(parents=True)
            for number in range(count):
                path = work / folder / pattern / f"{pattern}{number:02d}.jpg"
                names["draw"](pattern).save(path)
    for position, pattern in enumerate(patterns):
        for number in (3, 17):
            path = work / "fabrics" / pattern / f"{pattern}{number:02d}.jpg"
            path.rename(work / "fabrics" / patterns[position - 1] / path.name)


def run(work: Path, *words: str, may_find: bool = False) -> None:
    """Run a command of the product; with `may_find`, the exit code 1 is a result."""
    done = subprocess.run([COMMAND, *words], cwd=work, capture_output=True, text=True)
    if done.returncode not in ((0, 1) if may_find else (0,)):
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")


@contextmanager
def browser() -> Iterator[Any]:
    """Start the system's Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("ClientError: expected chromium on PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        # A browser of root has no sandbox; it opens only pages of this project.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=program, args=options)
        yield launched
        launched.close()


def take(
    chromium: Any,
    work: Path,
    target: Path,
    file: Path | None = None,
    page: str | None = None,
    element: str | None = None,
    at: str | None = None,
    scheme: str = "light",
) -> None:
    """Take a page: its first screen, the one that begins `at` a heading, or one element."""
    if page is not None:
        file = work / f"{target.stem}.html"
        file.write_text(page, "utf-8")
    context = chromium.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(f"file://{file}")
    if at:
        # Room below the last heading, so that each can be at the top.
        tab.evaluate("document.body.style.paddingBottom = '100vh'")
        heading = tab.locator("h2", has_text=at).first
        heading.evaluate("heading => heading.scrollIntoView({behavior: 'instant'})")
    write(target, (tab.locator(element) if element else tab).screenshot())
    context.close()


def take_server(chromium: Any, work: Path, folder: Path) -> None:
    """Take the page at `/` with several images, and on a phone with one."""
    images = sorted((work / "test").glob("*/*0[0-1].jpg"))
    with ic.load(work / "runs" / "a").serve(port=8391) as server:
        for name, width, scheme, chosen in (
            ("page.webp", WIDTH, "light", images),
            ("page-phone.webp", 390, "dark", images[:1]),
        ):
            size = {"width": width, "height": HEIGHT}
            context = chromium.new_context(viewport=size, color_scheme=scheme)
            tab = context.new_page()
            tab.goto(server.url)
            tab.get_by_label("Choose images").set_input_files(chosen)
            tab.locator(".timing:visible").nth(len(chosen) - 1).wait_for()
            write(folder / name, tab.screenshot())
            context.close()


def write(target: Path, png: bytes) -> None:
    """Write a picture as WebP, in the best quality that is small enough."""
    with Image.open(BytesIO(png)) as picture:
        for options in ({"lossless": True}, *({"quality": q} for q in (85, 70, 50, 30))):
            picture.save(target, "WEBP", method=6, **options)
            if target.stat().st_size <= MOST_BYTES:
                return
    raise SystemExit(f"{target}: more than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
