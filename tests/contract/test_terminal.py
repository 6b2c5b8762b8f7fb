"""What people see while a job trains and a server answers, and what programs read instead."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from image_classification.logs import FORMS
from tests.conftest import ClassFolders
from tests.contract.jobs import read_to, run_command
from tests.contract.terminals import Terminal, on_terminal

HOSTILE = ("[red]bold[reset]", "bell\a\x1b[31m", "green")
"""Class names that rich and a terminal could obey."""

JOB = [
    *("train", "flowers", "--set", "preset=", "--set", "backbone=resnet20"),
    *("--set", "use_pretrained_model=0", "--set", "train_only_top_layer=False"),
    *("--set", "image_shape=3,32,32", "--set", "resize_mode=crop", "--set", "batch_size=8"),
    *("--set", "epochs=2", "--set", "learning_rate=0.01"),
]
PLAIN_LINE = re.compile(r"\[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d [A-Z]+ \d+\] .+")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders) -> Path:
    root = tmp_path_factory.mktemp("terminal")
    write_class_folders(root / "flowers", HOSTILE, per_class=40)
    return root


@pytest.fixture(scope="module")
def drawn(folder: Path) -> Terminal:
    """A finished job on a terminal of 100 columns."""
    with on_terminal(*JOB, folder=folder, columns=100) as terminal:
        assert terminal.end() == 0, terminal.raw
    return terminal


def test_a_terminal_shows_at_most_twelve_lines_before_the_bar(drawn: Terminal) -> None:
    first = next(n for n, line in enumerate(drawn.lines) if line.startswith("Epoch 1/2"))
    assert 2 <= first <= 12, drawn.raw
    before = "\n".join(drawn.lines[:first])
    assert "96 training and 24 validation images, 3 classes" in before
    assert "epochs=2" in before and "momentum" not in before  # which is the default
    assert not re.search(r"\d\d/\d\d/\d{4}|\d\d:\d\d:\d\d", drawn.raw), "no dates"


def test_each_epoch_is_one_bar_with_its_metrics_then_come_a_table_and_the_next_command(
    drawn: Terminal,
) -> None:
    text = "\n".join(drawn.lines)
    rows = re.findall(r"^Epoch (\d)/2 ━+ +\d\.\d{3} +\d+\.\d% +\d+\.\d% +\d+ +0:\d\d$", text, re.M)
    assert rows == ["1", "2"]
    assert any(
        re.search(r"^Epoch 1.*─ .*\d% +\d+ +\d+:\d\d left", state) for state in drawn.drawn
    ), drawn.raw
    assert re.search(r"^validation +\d\.\d{3} +\d+\.\d%", text, re.M)
    assert re.search(r"^green +8 +\d+\.\d%", text, re.M)
    assert text.index("The best of 2 epochs") < text.index("report: runs/flowers-1/report.html")
    assert "next:   image-classification predict --model runs/flowers-1 IMAGE" in text


def test_class_names_with_markup_and_escape_sequences_are_shown_literally(drawn: Terminal) -> None:
    text = "\n".join(drawn.lines)
    assert "[red]bold[reset]" in text and r"bell\x07\x1b[31m" in text
    assert "\a" not in drawn.raw and "bell\x1b" not in drawn.raw


def test_warnings_stand_above_the_bar(drawn: Terminal) -> None:
    warning = next(line for line in drawn.lines if line.startswith("warning: "))
    assert "Training starts from random weights" in warning


def test_a_pipe_gets_the_plain_log_with_one_line_per_event(folder: Path) -> None:
    command = [sys.executable, "-m", "image_classification", *JOB]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        lines = read_to(process, "classes: 3:").splitlines()
        process.kill()
    assert len(lines) > 40 and all(PLAIN_LINE.fullmatch(line) for line in lines), lines


def test_log_plain_on_a_terminal_writes_the_lines_of_a_pipe(folder: Path) -> None:
    with on_terminal(*JOB, "--log", "plain", folder=folder) as terminal:
        text = terminal.read_to("classes: 3:").replace("\r\n", "\n")
    lines = text.splitlines()[:-1]  # the last one can be cut
    assert len(lines) > 40 and all(PLAIN_LINE.fullmatch(line) for line in lines), text


def test_log_json_is_one_object_per_line_with_the_fields_of_metrics(folder: Path) -> None:
    with on_terminal(*JOB, "--log", "json", folder=folder) as terminal:
        assert terminal.end() == 0, terminal.raw
    lines = [json.loads(line) for line in terminal.raw.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert all(re.fullmatch(r"\d{4}(-\d\d){2}T(\d\d:){2}\d\d\.\d{3}Z", x["time"]) for x in lines)
    assert any(line["message"].startswith("next: ") for line in lines)
    epochs = [line for line in lines if line.get("event") == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2]
    for line in epochs:
        assert 0 <= line["validation"]["accuracy"] <= 1 and line["train"]["loss"] > 0
        assert line["images_per_second"] > 0 and line["level"] == "INFO"
    (finished,) = [line for line in lines if line.get("event") == "finished"]
    assert {row[0] for row in finished["classes"]} == set(HOSTILE)


def test_a_job_of_the_platform_is_plain_even_on_a_terminal(tmp_path: Path) -> None:
    with on_terminal("train", folder=tmp_path, IMAGE_CLASSIFICATION_BASE_DIR=".") as terminal:
        assert terminal.end() == 2
    assert "ClientError: " in terminal.raw and "\x1b" not in terminal.raw


def test_an_error_on_a_terminal_begins_with_clienterror_and_exits_with_2(folder: Path) -> None:
    with on_terminal(*JOB, "--set", "epochs=many", folder=folder) as terminal:
        assert terminal.end() == 2
    assert [line for line in terminal.lines if line][-1].startswith(
        "ClientError: Hyperparameters: epochs="
    )


def test_another_word_for_the_form_is_refused(folder: Path) -> None:
    option = run_command(*JOB, "--log", "pretty", folder=folder)
    assert option.returncode == 2 and option.stderr.startswith("ClientError: ")
    variable = run_command("check", "flowers", folder=folder, IMAGE_CLASSIFICATION_LOG="pretty")
    assert variable.returncode == 2
    assert f"must be one of {', '.join(FORMS)}, or unset, got 'pretty'" in variable.stderr


def test_a_server_on_a_terminal_prints_its_url_and_a_short_line_per_request(
    folder: Path, drawn: Terminal, jpeg: bytes
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = ("--model", "runs/flowers-1", "--port", str(port))
    with on_terminal("serve", *given, folder=folder) as terminal:
        terminal.read_to("Ctrl-C stops it")
        url = f"http://127.0.0.1:{port}/"
        assert f"{url} serves resnet20, 3 classes" in terminal.raw
        request = urllib.request.Request(url + "invocations", jpeg, {"Content-Type": "image/jpeg"})
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 200
        terminal.read_to("%\r\n")
        terminal.process.terminate()
        assert terminal.end() == 0
    (line,) = [line for line in terminal.lines if line.startswith("POST")]
    assert re.fullmatch(r"POST /invocations 200 \d+ ms .{4,40} \d+\.\d%", line)
    assert "{" not in terminal.raw and "\x1b" not in terminal.raw


def test_help_and_the_server_import_no_rich() -> None:
    code = (
        "import sys\n"
        "from image_classification.cli import parser\n"
        "from image_classification import logs, terminal\n"
        "from image_classification.serving import startup, server\n"
        "parser().format_help()\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'rich'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
