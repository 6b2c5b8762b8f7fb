"""The package's own papers agree with each other."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import image_classification
from image_classification.cli import parser

REPOSITORY = Path(__file__).parent.parent.parent
COMMANDS = [
    "list",
    "pack",
    "inspect",
    "preprocess",
    "check",
    "train",
    "tune",
    "evaluate",
    "compare",
    "predict",
    "rank",
    "serve",
    "export",
]


def test_the_changelogs_newest_version_is_the_packages() -> None:
    newest = re.search(r"^## ([\d.]+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest.group(1) == image_classification.__version__
    assert (
        f'version = "{image_classification.__version__}"'
        in (REPOSITORY / "pyproject.toml").read_text()
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "example" in text and f"image-classification {command}" in text


def test_the_generated_references_match_the_declarations() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "docs", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", ["train/train", "train/preprocess", "serve/serve"])
def test_the_containers_programs_run_the_package(program: str) -> None:
    path = REPOSITORY / "containers" / program
    assert path.stat().st_mode & 0o111, f"{path} is not executable"
    done = subprocess.run(
        [path, "--help"],
        capture_output=True,
        text=True,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert f"image-classification {path.name}" in done.stdout


def test_every_pin_has_a_reason() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    for line in text.splitlines():
        if re.match(r'\s+"[a-z0-9-]+(==|>=)', line):
            assert re.search(r'",\s+# .{10,}', line), line


@pytest.mark.parametrize(
    "notebook", sorted(REPOSITORY.glob("notebooks/*.ipynb")), ids=lambda p: p.name
)
def test_notebooks_have_no_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_notebook_names_the_images_of_this_version() -> None:
    text = (REPOSITORY / "notebooks" / "sagemaker.ipynb").read_text("utf-8")
    for image in ("train", "serve"):
        assert f"image-classification-{image}:{image_classification.__version__}" in text


def test_a_command_is_parsed_without_importing_the_others() -> None:
    code = (
        "import sys; from image_classification.cli import parser; parser('serve');"
        "print([m for m in ('numpy', 'PIL', 'image_classification.images') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [*COMMANDS, "rec2idx", "weights", "describe"])
def test_a_command_is_found_with_and_without_its_name_given(command: str) -> None:
    for name in (command, None):
        choices = next(a.choices for a in parser(name)._actions if a.choices)
        assert choices and command in choices
    assert len(list(choices)) == len(COMMANDS) + 3


def test_the_lock_inputs_repeat_no_pin_of_pyproject() -> None:
    pin = re.compile(r'^\s*"?([\w.-]+)(?:\[[\w,-]+\])?==', re.MULTILINE)
    pinned = set(pin.findall((REPOSITORY / "pyproject.toml").read_text()))
    assert {"torch", "mxnet"} <= pinned
    for path in (REPOSITORY / "containers" / "locks").glob("*.in"):
        assert not pinned & set(pin.findall(path.read_text())), path.name
