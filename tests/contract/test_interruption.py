"""Every command ends at Ctrl-C and SIGTERM with one line and its exit code, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ClassFolders
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import read_to, write_job

ENDINGS = [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "terminated\n")]

# Runs an entry point that receives a signal when it imports a module.
INTERRUPTED_IMPORT = """
import os, sys

entry_point, module, number, *sys.argv[1:] = sys.argv[1:]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), int(number))

sys.meta_path.insert(0, Finder())
from image_classification import cli
sys.exit(getattr(cli, entry_point)())
"""


@pytest.mark.parametrize(("number", "message"), ENDINGS)
@pytest.mark.parametrize(
    ("entry_point", "module"),
    [
        ("main", "argparse"),
        ("main", "image_classification.cli.command_line"),
        ("main", "image_classification.cli.preprocess"),
        ("im2rec_main", "argparse"),
        ("im2rec_main", "image_classification.cli.im2rec"),
    ],
)
def test_a_signal_during_the_imports_ends_the_program_in_one_line(
    entry_point: str, module: str, number: signal.Signals, message: str
) -> None:
    words = ("-c", INTERRUPTED_IMPORT, entry_point, module, str(int(number)), "preprocess")
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (128 + number, message)


def interrupt_often(process: subprocess.Popen[str], times: int) -> None:
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)


@pytest.mark.parametrize("times", [2, 4])
def test_several_interrupts_of_preprocess_end_it_like_one(
    tmp_path: Path, write_class_folders: ClassFolders, times: int
) -> None:
    images = write_class_folders(tmp_path / "images", per_class=60)
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "image_classification", "preprocess"),
            *("--input", images, "--output", tmp_path / "out"),
            *("--resize", "1500", "--workers", "1", "--shard-size", "0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not any((tmp_path / "out").rglob("*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    interrupt_often(process, times)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130, errors
    assert errors.count("interrupted\n") == 1 and "Traceback" not in errors
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.survival
def test_several_interrupts_of_a_job_end_it_like_one(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    channels = {
        "train": write_class_folders(tmp_path / "train", per_class=5),
        "validation": write_class_folders(tmp_path / "validation", per_class=2, seed=1),
    }
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 10_000}, channels)
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classification", "train", "--base-dir", str(base)],
        env=os.environ | {"IMAGE_CLASSIFICATION_CPU_COUNT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    read_to(process, "Epoch[0] Validation-accuracy")
    interrupt_often(process, 5)
    log = process.communicate(timeout=60)[0]
    assert process.returncode == 130, log
    assert log.count("interrupted\n") == 1 and "Traceback" not in log
