"""The pages name only paths, links and imports that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from image_classification.cli import parser
from tests.conftest import REPOSITORY
from tests.unit.test_architecture import ALLOWED, PACKAGE

ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
PAGES = sorted([*REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("*.md")])

# A path in backquotes: with a slash, or a file by its extension. <name> and … stand for anything.
PATH = re.compile(r"(?<!`)`([\w.<>*-]+(?:/[\w.<>*-]+)*/?)`(?!`)")
TEST = re.compile(r"^def (test_\w+)\(", re.MULTILINE)
NO_PATHS = {
    "application/x-image",
    "timm/<model>",
    "weight/<name>",
    "average/<name>",
    "optimizer/<slot>/<name>",
    "optimizer/<slot>/<parameter>",
}


def paths_in(text: str) -> list[str]:
    """The paths that a page names in backquotes, outside its blocks of code."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = {name for name in PATH.findall(prose) if "/" in name or re.search(r"\.(py|md)$", name)}
    return sorted(found - NO_PATHS)


def exists(name: str) -> bool:
    """Whether a path is there, relative to the repository or to the package."""
    pattern = re.sub(r"<\w+>", "*", name).rstrip("/")
    return any(any(folder.glob(pattern)) for folder in (REPOSITORY, PACKAGE))


@pytest.mark.parametrize("name", paths_in(ARCHITECTURE))
def test_a_path_in_the_architecture_page_exists(name: str) -> None:
    assert exists(name) or any(PACKAGE.glob(f"backends/*/{name}")), name


@pytest.mark.parametrize("name", paths_in(CONTRIBUTING))
def test_a_path_in_contributing_exists(name: str) -> None:
    assert exists(name) or any(PACKAGE.glob(f"backends/*/{name}")), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_names_only_modules_and_files_that_exist(page: Path) -> None:
    folders = {path.name for root in (REPOSITORY, PACKAGE) for path in root.iterdir()}
    folders -= {"local-run", "demo"}  # what runs of the scripts leave
    names = [n for n in paths_in(page.read_text("utf-8")) if n.split("/")[0] in folders]
    assert [name for name in names if not exists(name)] == []


def test_the_import_table_of_the_architecture_page_is_the_one_that_is_enforced() -> None:
    section = ARCHITECTURE.partition("## Which part may import which")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", section, re.MULTILINE)
    table = {part: set(re.findall(r"`(\w+)`", parts)) for part, parts in rows}
    enforced = {part: parts for part, parts in ALLOWED.items() if part != "__init__"}
    listed = {
        part: ", ".join(f"`{other}`" for other in sorted(parts)) or "the standard library"
        for part, parts in enforced.items()
        if table.get(part) != parts
    }
    assert not listed, f"write these into docs/architecture.md: {listed}"
    assert set(table) == set(enforced)


def test_each_row_of_what_the_server_withstands_names_a_test_that_exists() -> None:
    page = (REPOSITORY / "docs" / "serving.md").read_text("utf-8")
    section = page.partition("## What it withstands")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.endswith("| Test |")]
    files = (REPOSITORY / "tests").rglob("test_*.py")
    defined = {name for path in files for name in TEST.findall(path.read_text("utf-8"))}
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rpartition("| ")[2])
        assert named, f"no test in the last column: {row}"
        assert set(named) <= defined, f"no such test: {sorted(set(named) - defined)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name}: {target}"


def test_each_heading_of_the_page_of_errors_is_a_message_of_the_product() -> None:
    page = (REPOSITORY / "docs" / "errors.md").read_text("utf-8")
    headings = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    listed = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "messages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert len(headings) >= 15
    for heading in headings:
        pieces = [re.escape(piece.strip()) for piece in heading.split("…") if piece.strip()]
        assert re.search(".*".join(pieces), listed), f"no message of the product: {heading}"


def commands_of(page: str) -> list[str]:
    text = (REPOSITORY / "docs" / page).read_text("utf-8")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
    return [line for line in lines if line.startswith("image-classification ")]


@pytest.mark.parametrize("command", commands_of("how-to.md"))
def test_the_program_knows_each_command_of_the_how_to_page(command: str) -> None:
    words = shlex.split(command)[1:]
    assert parser(words[0]).parse_args(words)


def test_the_start_page_leads_to_every_answer_of_the_how_to_page() -> None:
    answers = (REPOSITORY / "docs" / "how-to.md").read_text("utf-8")
    start = (REPOSITORY / "docs" / "index.md").read_text("utf-8")
    questions = re.findall(r"^### (.*)$", answers, re.MULTILINE)
    assert len(questions) >= 25
    anchors = {re.sub(r"[^\w\- ]", "", q.lower()).replace(" ", "-") for q in questions}
    assert anchors - set(re.findall(r"\(how-to\.md#([\w-]+)\)", start)) == set()


PICTURES = sorted((REPOSITORY / "docs" / "images").iterdir())


def test_the_pictures_of_the_pages_are_small_and_each_is_shown_with_a_description() -> None:
    sizes = {picture.name: picture.stat().st_size for picture in PICTURES}
    assert max(sizes.values()) <= 150_000 and sum(sizes.values()) <= 1_000_000
    shown = {
        Path(target).name: text
        for page in PAGES
        for text, target in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text("utf-8"))
    }
    assert set(shown) == set(sizes) and all(len(text) > 20 for text in shown.values())
