"""What all commands have in common: exit codes, signals, and what is printed where."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from image_classification import logs
from image_classification.artifact import Artifact
from image_classification.cli import command_line, im2rec, interruption, main
from image_classification.cli.command_line import exit_code_of
from image_classification.errors import OUT_OF_MEMORY, DataError, UserError
from image_classification.evaluate import open_labeled, predict_source
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap
from image_classification.loading.sources import ListedSource
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving import models
from tests.conftest import ClassFolders

GOLDEN = Path(__file__).parents[1] / "golden"


def stop_with(number: signal.Signals) -> Callable[[], int]:
    def run() -> int:
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 0.2)  # the handler runs at the next opportunity
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


@pytest.fixture
def handlers() -> Iterator[list[object]]:
    """The handlers of both signals, which an interrupted command leaves ignored."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield list(before)
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


@pytest.mark.parametrize(
    ("number", "message"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "terminated\n")]
)
@pytest.mark.usefixtures("handlers")
def test_a_signal_ends_a_command_and_later_ones_are_ignored(
    capsys: pytest.CaptureFixture[str], number: signal.Signals, message: str
) -> None:
    def run() -> int:
        try:
            return stop_with(number)()
        finally:
            stop_with(signal.SIGINT)()

    assert interruption.exit_code_of(run) == 128 + number
    stop_with(signal.SIGINT)()
    stop_with(signal.SIGTERM)()
    assert capsys.readouterr().err == message


def test_a_command_that_ends_by_itself_restores_the_handlers(handlers: list[object]) -> None:
    assert interruption.exit_code_of(lambda: 3) == 3
    with pytest.raises(SystemExit):
        interruption.exit_code_of(lambda: sys.exit(2))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.usefixtures("handlers")
def test_an_ignored_interrupt_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job in the background
    assert interruption.exit_code_of(stop_with(signal.SIGINT)) == 0


def test_a_command_may_run_in_any_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(interruption.exit_code_of(lambda: 7)))
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


def test_evaluate_takes_a_folder_that_lacks_classes_and_refuses_an_unknown_one(
    tmp_path: Path, jpeg: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    labels = LabelMap(("cat", "dog", "owl"))
    (tmp_path / "dog" / "2024").mkdir(parents=True)
    (tmp_path / "dog" / "2024" / "1.jfif").write_bytes(jpeg)
    assert open_labeled(tmp_path, labels).class_indices.tolist() == [1]
    assert "no images of cat, owl: they count as 0 images" in caplog.text
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "1.jpg").write_bytes(jpeg)
    with pytest.raises(DataError, match=r"1 unknown: \['fox'\].*rename the unknown folders"):
        open_labeled(tmp_path, labels)


def test_a_list_says_which_folders_are_classes_only_there(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "red" / "2024").mkdir()
    (images / "red" / "2024" / "1.jpg").touch()
    assert main(["list", str(tmp_path / "data"), str(images)]) == 0
    said = capsys.readouterr().err
    assert "red/2024 and 0 more folders inside other folders are classes of their own" in said


def test_an_address_to_predict_is_named_as_it_was_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["predict", "https://example.com/a.jpg", "--model", "m"]) == 2
    assert "https://example.com/a.jpg is an address: download" in capsys.readouterr().err


def test_an_unknown_option_shows_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "flowers", "--epochs", "5"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("ClientError: unrecognized arguments: --epochs 5\n")
    assert "usage: image-classification train " in said and "--set NAME=VALUE" in said


def test_a_folder_to_predict_without_an_image_is_an_error_that_says_what_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert main(["predict", "--model", str(tmp_path), str(tmp_path)]) == 2
    assert "found none; left out: 1 .heic file (" in capsys.readouterr().err


class _Graph:
    """Gives the first pixels as probabilities, as long as there is memory."""

    providers = ("CPUExecutionProvider",)
    outputs: frozenset[str] = frozenset()
    has_memory = True

    def run(self, images: UInt8Array) -> FloatArray:
        if not self.has_memory:
            raise MemoryError("cpu has no memory for 1 image(s) now")
        return images[:, 0, 0].astype(np.float32)


def test_evaluate_blames_an_image_for_the_memory_of_its_decoding_and_never_of_the_network(
    jpeg: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (tmp_path / "b.jpg").write_bytes(jpeg)
    source = ListedSource("images", tmp_path, ["a.jpg", "b.jpg"], np.array([0, 1]))
    graph, decoded = _Graph(), []
    labels = LabelMap(("a", "b", "c"))
    artifact = Artifact(Path("model"), {"files": {}}, labels, Preprocessing(2, 2))
    model = models.Model(artifact, graph)  # type: ignore[arg-type]
    original = models.preprocess

    def decode_once(*arguments: object) -> None:
        decoded.append(arguments)
        if len(decoded) == 2:
            raise MemoryError
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(models, "preprocess", decode_once)
    outcomes, skipped = predict_source(model, source, 1, lambda: None)
    assert outcomes.keys == ("a.jpg",) and skipped == [("b.jpg", OUT_OF_MEMORY)]
    graph.has_memory = False
    with (
        pytest.raises(
            UserError, match=r"out of memory while the model computes \(cpu has no memory"
        ),
        command_line.memory_of_the_model(),
    ):
        predict_source(model, source, 1, lambda: None)


def test_a_path_where_nothing_is_is_an_error_that_says_so_and_leaves_nothing_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "jbo"
    monkeypatch.setenv("IMAGE_CLASSIFICATION_BASE_DIR", str(missing))
    for words in (["train", "--base-dir", str(missing)], ["train"]):
        assert main(words) == 2
        said = capsys.readouterr()
        assert f"ClientError: {missing}: no such folder; name the images" in said.out + said.err
    assert not missing.exists(), "no output/failure in a folder that a typing error named"
    with pytest.raises(DataError, match=rf"{missing}: expected .*, found no such file or folder$"):
        open_labeled(missing, LabelMap(("cat", "dog")))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_predictions_on_a_terminal_are_not_mixed_with_the_bar(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    terminal = _Terminal()
    monkeypatch.setattr(logs, "_BAR_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    model = ["--model", str(GOLDEN / "artifacts" / "torch.tar.gz")]
    assert main(["predict", *model, str(images)]) == 2  # one image is damaged
    seen = [re.split(r"\r\x1b\[K", line)[-1] for line in terminal.getvalue().split("\n")]
    assert len([line for line in seen if line.startswith("{")]) == 13
    assert not any("█" in line and "{" in line for line in seen)
