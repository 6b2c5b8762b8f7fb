"""What all commands have in common: exit codes, signals, and what is printed where."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from image_classification.cli import im2rec, main
from image_classification.cli.command_line import exit_code_of
from image_classification.errors import DataError
from tests.conftest import ClassFolders

GOLDEN = Path(__file__).parents[1] / "golden"


def stop_with(number: signal.Signals) -> Callable[[], int]:
    def run() -> int:
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 5)  # the handler runs at the next opportunity
        return 0

    return run


def fail_with(error: Exception) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "code", "message"),
    [
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (fail_with(DataError("no image")), 2, "ClientError: no image\n"),
        (fail_with(BrokenPipeError()), 0, None),
        (stop_with(signal.SIGINT), 130, "interrupted\n"),
        (stop_with(signal.SIGTERM), 143, "terminated\n"),
    ],
)
def test_the_exit_code_of_a_command_tells_how_it_ended(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Callable[[], int],
    code: int,
    message: str | None,
) -> None:
    if message is None:
        monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))  # the command closes it
    assert exit_code_of(run, sys.stdout) == code
    assert message is None or capsys.readouterr().err == message


def test_a_command_restores_the_handler_of_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert exit_code_of(stop_with(signal.SIGTERM), sys.stdout) == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_command_may_run_in_any_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(exit_code_of(lambda: 7, sys.stdout)))
    thread.start()
    thread.join()
    assert codes == [7]


@pytest.fixture
def images(tmp_path: Path, write_class_folders: ClassFolders) -> Path:
    """Class folders with a damaged image and a hidden one, which every command reports."""
    folder = write_class_folders(tmp_path / "images", per_class=4)
    (folder / "red" / "damaged.jpg").write_bytes(b"no image")
    (folder / "red" / ".hidden.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def lists(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["list", str(tmp_path / "data"), str(images)]) == 0
    capsys.readouterr()
    return tmp_path / "data.lst"


def test_json_is_alone_on_standard_output(
    tmp_path: Path, images: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_file = tmp_path / "data.rec"
    for words, code in (
        (["pack", str(lists), str(images), "--max-bad", "1", "--json"], 0),
        (["inspect", str(record_file), "--json"], 0),
        (["inspect", str(record_file), "--record", "0", "--json"], 0),
        (["inspect", str(record_file), "--extract", str(tmp_path / "back"), "--json"], 0),
        (["check", str(images), "--json"], 1),
        (["check", str(record_file), "--json"], 0),
        (["describe"], 0),
    ):
        assert main(words) == code, words
        assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_an_artifacts_metrics_and_predictions_are_alone_on_standard_output(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    model = ["--model", str(GOLDEN / "artifacts" / "torch.tar.gz")]
    assert main(["predict", *model, str(images)]) == 2  # one image is damaged
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13 and all("image" in json.loads(line) for line in lines)
    pictures = str(GOLDEN / "pictures" / "validation")
    code = main(["evaluate", *model, "--data", pictures, "--json"])
    assert code == 0 and json.loads(capsys.readouterr().out)["samples"] > 0


def test_only_the_class_table_of_a_list_and_the_summary_of_channels_are_on_standard_output(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", str(tmp_path / "other"), str(images)]) == 0
    assert capsys.readouterr().out == "blue 0\ngreen 1\nred 2\n"
    output = tmp_path / "channels"
    words = ["--input", str(images), "--output", str(output), "--max-bad", "1"]
    assert main(["preprocess", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["train", "validation"]
    assert all(line.startswith("note: ") for line in lines[2:])


def test_im2rec_prints_what_it_creates(
    tmp_path: Path, images: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert im2rec.main(["--max-bad", "1", str(tmp_path / "data"), str(images)]) == 0
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first == f"Creating .rec file from {lists} in {tmp_path}"
    assert second.startswith(f"{tmp_path / 'data.rec'}: 12 records")
    assert [line.split(" ")[0] for line in rest] == ["class", "class", "class", "skipped"]
