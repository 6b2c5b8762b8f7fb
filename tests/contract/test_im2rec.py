"""im2rec as a program: what is left when it is stopped, killed, or runs out of disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.records.reader import RecordFile

COMMAND = [sys.executable, "-m", "image_classification.cli.im2rec"]
IMAGES = 400


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 noisy images, 100 KB each: a second or two of packing."""
    folder = tmp_path_factory.mktemp("tree")
    generator = np.random.default_rng(0)
    for number in range(8):
        image = Image.fromarray(generator.integers(0, 256, (300, 400, 3), np.uint8))
        image.save(folder / f"{number}.png", compress_level=0)
    for number in range(8, IMAGES):
        (folder / f"{number}.png").hardlink_to(folder / f"{number % 8}.png")
    return folder


@pytest.fixture
def prefix(tmp_path: Path, tree: Path) -> Path:
    """The prefix of a list of the tree, in a folder of its own."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "data"
    subprocess.run([*COMMAND, "--list", str(path), str(tree)], check=True, capture_output=True)
    return path


def left_behind(prefix: Path) -> list[str]:
    known = ("data.lst", "labels.json")
    return sorted(path.name for path in prefix.parent.iterdir() if path.name not in known)


def stop_midway(prefix: Path, tree: Path, number: int, *flags: str) -> tuple[int, str]:
    """Start packing, send a signal once records are being written; exit code and messages."""
    process = subprocess.Popen(
        [*COMMAND, *flags, str(prefix), str(tree)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    work = prefix.with_name(".data.rec.packing")
    wanted = 3 if "--resume" in flags else 1
    while len(list(work.glob("*.rec*"))) < wanted and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_stopped_run_logs_it_and_leaves_nothing(
    prefix: Path, tree: Path, number: int, code: int, message: str
) -> None:
    found, errors = stop_midway(prefix, tree, number, "--num-thread", "2")
    assert found == code
    assert errors.splitlines()[-1] == message and "Traceback" not in errors
    assert left_behind(prefix) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_with_resume_goes_on_and_gives_the_same_bytes(
    prefix: Path, tree: Path, number: int
) -> None:
    flags = ["--pass-through", "--shard-size", "8", "--resume"]
    code, _ = stop_midway(prefix, tree, number, *flags)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert left_behind(prefix) == [".data.rec.packing"]
    again = subprocess.run(
        [*COMMAND, *flags, str(prefix), str(tree)], check=True, capture_output=True, text=True
    )
    assert "images were done before the interruption" in again.stdout
    shards = sorted(prefix.parent.glob("*.rec"))
    resumed = [path.read_bytes() for path in shards]
    assert len(left_behind(prefix)) == 2 * len(shards)
    subprocess.run([*COMMAND, *flags[:3], str(prefix), str(tree)], check=True, capture_output=True)
    assert resumed == [path.read_bytes() for path in shards]


def test_the_next_run_removes_the_files_of_a_killed_one(prefix: Path, tree: Path) -> None:
    assert stop_midway(prefix, tree, signal.SIGKILL)[0] == -signal.SIGKILL
    assert left_behind(prefix) == [".data.rec.packing"]
    subprocess.run(
        [*COMMAND, "--pass-through", str(prefix), str(tree)], check=True, capture_output=True
    )
    assert left_behind(prefix) == ["data.idx", "data.rec"]


def assert_fails_cleanly(prefix: Path, ran: subprocess.CompletedProcess[str], reason: str) -> None:
    assert ran.returncode == 2
    message = ran.stderr.splitlines()[-1]
    assert message.startswith(f"ClientError: {prefix}.rec cannot be written: {reason}")
    assert "Traceback" not in ran.stderr
    assert left_behind(prefix) == []


def test_a_limit_on_the_size_of_files_ends_the_run_cleanly(prefix: Path, tree: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))

    ran = subprocess.run(
        [*COMMAND, "--pass-through", "--num-thread", "2", str(prefix), str(tree)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    assert_fails_cleanly(prefix, ran, "File too large")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=5m", "none", str(folder)]
    if mount is None or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here; the test of a size limit stands in")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_cleanly(prefix: Path, tree: Path, small_disk: Path) -> None:
    place = small_disk / "data"
    shutil.copy(prefix.with_suffix(".lst"), place.with_suffix(".lst"))
    ran = subprocess.run(
        [*COMMAND, "--pass-through", "--num-thread", "2", str(place), str(tree)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_fails_cleanly(place, ran, "No space left on device")


def test_the_wrapper_in_the_image_runs_the_same_program() -> None:
    wrapper = Path(__file__).parents[2] / "containers" / "train" / "im2rec"
    text = wrapper.read_text("utf-8")
    assert os.access(wrapper, os.X_OK)
    assert text.splitlines()[-1] == 'exec python3 -m image_classification.cli.im2rec "$@"'


def test_the_records_of_many_threads_are_sound(prefix: Path, tree: Path) -> None:
    subprocess.run(
        [*COMMAND, "--resize", "32", "--num-thread", "8", str(prefix), str(tree)],
        check=True,
        capture_output=True,
    )
    with RecordFile(prefix.with_suffix(".rec")) as file:
        assert len(file) == IMAGES and file.index_problem is None
