"""What cannot be written for want of space is named, whatever command writes it."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ClassFolders
from tests.contract.jobs import run_command


def run_with_limit(limit: int, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command whose files cannot exceed `limit` bytes: it stands in for a full disk."""
    command = [sys.executable, "-m", "image_classification", *map(str, words)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders) -> Path:
    """`all.rec`, its list, and images of a few KB each."""
    root = tmp_path_factory.mktemp("records")
    images = root / "images"
    for number in range(12):
        picture = np.random.default_rng(number).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        path = images / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    assert run_command("list", root / "all", images).returncode == 0
    assert run_command("pack", root / "all.lst", images).returncode == 0
    return root


Words = Callable[[Path, Path], tuple[tuple[object, ...], str]]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (100, lambda r, o: (("list", o / "new", r / "images"), "new.lst")),
        (9000, lambda r, o: (("inspect", r / "all.rec", "--extract", o), ".png")),
        (5000, lambda r, o: (("inspect", r / "all.rec", "--contact-sheet", o / "s.png"), "s.png")),
        (50, lambda r, o: (("rec2idx", r / "all.rec", o / "new.idx"), "new.idx")),
    ],
    ids=["list", "extract", "contact-sheet", "rec2idx"],
)
def test_a_file_that_does_not_fit_is_named(
    records: Path, tmp_path: Path, limit: int, words: Words
) -> None:
    command, name = words(records, tmp_path)
    done = run_with_limit(limit, *command)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ClientError: file too large while writing {tmp_path}"), last
    assert f"{name}: use a larger volume" in last


@pytest.mark.parametrize(
    "words", [("describe",), ("inspect", "all.rec"), ("check", "images", "--json")]
)
def test_a_full_standard_output_is_named(records: Path, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "image_classification", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=records,
        )
    assert done.returncode == 2, done.stderr
    message = "ClientError: no space left on device while writing standard output"
    assert done.stderr.splitlines()[-1].startswith(message), done.stderr
