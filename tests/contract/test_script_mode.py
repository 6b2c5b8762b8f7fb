"""Script mode runs the user's script in its own process, like sagemaker-training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.contract.jobs import run_command, run_train, write_job

TRAIN = """
import argparse, json, os, sys
import image_classification
from image_classification.images.decode import decode
import sibling
parser = argparse.ArgumentParser()
parser.add_argument("--learning-rate", type=float)
parser.add_argument("--flip", type=str)
parser.add_argument("--api_token", type=str)
parser.add_argument("-n", type=int)
parser.add_argument("--train", default=os.environ["SM_CHANNEL_TRAIN"])
parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
arguments = parser.parse_args()
images = sorted(name for _, _, names in os.walk(arguments.train) for name in names)
seen = {name: value for name, value in os.environ.items() if name.startswith("SM_")}
content = {"argv": sys.argv[1:], "images": len(images), "seen": seen, "sibling": sibling.VALUE}
with open(os.path.join(arguments.model_dir, "seen.json"), "w") as file:
    json.dump(content, file)
print("trained")
"""
GIVEN = {
    "sagemaker_program": '"train.py"',
    "sagemaker_job_name": '"job"',
    "learning-rate": "0.01",
    "flip": "true",
    "n": "3",
    "api_token": '"hunter2"',
}


def script_job(root: Path, channels: dict[str, Path], code: dict[str, str], **given: str) -> Path:
    base = write_job(root / "ml", GIVEN | given, channels)
    for name, text in code.items():
        (base / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "code" / name).write_text(text)
    return base


def seen_by(base: Path) -> dict[str, object]:
    return dict(json.loads((base / "model" / "seen.json").read_text()))


def test_the_script_gets_arguments_variables_and_our_package(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    code = {"train.py": TRAIN, "sibling.py": "VALUE = 7"}
    base = script_job(tmp_path, small_channels, code)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    found = seen_by(base)
    expected = "--api_token hunter2 --flip True --learning-rate 0.01 -n 3"
    assert sorted(" ".join(found["argv"]).split()) == sorted(expected.split())
    assert (found["images"], found["sibling"]) == (36, 7)
    seen = found["seen"]
    assert seen["SM_MODEL_DIR"] == str(base / "model")
    assert seen["SM_CHANNEL_VALIDATION"] == str(base / "input" / "data" / "validation")
    assert json.loads(seen["SM_CHANNELS"]) == ["train", "validation"]
    assert json.loads(seen["SM_HPS"]) == {
        "learning-rate": 0.01, "flip": True, "n": 3, "api_token": "hunter2"
    }  # fmt: skip
    assert seen["SM_HP_FLIP"] == "True" and seen["SM_USER_ENTRY_POINT"] == "train.py"
    assert json.loads(seen["SM_HOSTS"]) == ["algo-1"] and seen["SM_CURRENT_HOST"] == "algo-1"
    assert json.loads(seen["SM_TRAINING_ENV"])["is_master"] is True
    assert "trained" in done.stdout and (base / "output" / "success").is_file()


def test_no_value_of_a_hyperparameter_is_logged(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = script_job(tmp_path, small_channels, {"train.py": TRAIN, "sibling.py": "VALUE = 7"})
    done = run_command("train", "--base-dir", base, MY_SECRET_KEY="correct-horse")
    assert done.returncode == 0
    assert "api_token" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert "correct-horse" not in done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_the_code_can_be_a_submitted_folder_or_tar_file(
    tmp_path: Path, small_channels: dict[str, Path], kind: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(TRAIN)
    (source / "sibling.py").write_text("VALUE = 8")
    submitted = source
    if kind == "tar":
        submitted = tmp_path / "sourcedir.tar.gz"
        with tarfile.open(submitted, "w:gz") as tar:
            tar.add(source, ".")
    base = script_job(tmp_path, small_channels, {}, sagemaker_submit_directory=f'"{submitted}"')
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert seen_by(base)["sibling"] == 8


def test_a_failed_script_determines_the_exit_code_and_the_reason(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    text = "raise ValueError('the data has no roses')"
    base = script_job(tmp_path, small_channels, {"train.py": text})
    (base / "output").mkdir(exist_ok=True)
    for left in ("failure", "success"):  # by an earlier start of the same tree
        (base / "output" / left).write_text("an earlier start's")
    done = run_train(base)
    assert done.returncode == 1
    reason = (base / "output" / "failure").read_text()[:1024]
    assert reason.startswith(
        "AlgorithmError: train.py ended with exit code 1: ValueError: the data has no roses"
    )
    assert "Traceback" in done.stderr  # the script's own, as it wrote it
    assert not (base / "output" / "success").exists()


def test_a_failure_file_of_the_script_is_kept(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    text = "import os\nopen(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('mine')\nexit(3)"
    base = script_job(tmp_path, small_channels, {"train.py": text})
    assert run_train(base).returncode == 3
    assert (base / "output" / "failure").read_text() == "mine"


def test_sigterm_reaches_the_script(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    text = """
import os, signal, sys, time
def stop(number, frame):
    open(os.environ["SM_MODEL_DIR"] + "/saved", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", os.getpid(), flush=True)
while True:
    time.sleep(0.05)
"""
    base = script_job(tmp_path, small_channels, {"train.py": text})
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classification", "train", "--base-dir", str(base)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            script = int(line.split()[1])
            break
    process.terminate()
    try:
        assert process.wait(30) == 0
    except BaseException:
        os.kill(script, signal.SIGKILL)
        raise
    process.stdout.close()
    assert (base / "model" / "saved").is_file()


@pytest.mark.parametrize(
    ("code", "given", "reason"),
    [
        ({"other.py": ""}, {}, "sagemaker_program=train.py is not in"),
        ({}, {}, "there is no code: put it into"),
        ({}, {"sagemaker_submit_directory": "/no/such.tar.gz"}, "there is no such file"),
        ({"train.exe": ""}, {"sagemaker_program": "train.exe"}, "expected a .py or a .sh file"),
    ],
    ids=["no program", "no code", "no archive", "not a script"],
)
def test_missing_code_is_a_client_error(
    tmp_path: Path,
    small_channels: dict[str, Path],
    code: dict[str, str],
    given: dict[str, str],
    reason: str,
) -> None:
    base = script_job(tmp_path, small_channels, code, **given)
    done = run_train(base)
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("ClientError: ") and reason in failure
    assert "Traceback" not in done.stderr


def test_our_algorithm_runs_jobs_that_name_the_script_of_the_built_in(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = {"sagemaker_program": '"transfer_learning.py"', "epoch": "1"}
    base = write_job(tmp_path / "ml", given, small_channels)
    done = run_train(base)
    assert "did you mean 'epochs'?" in done.stderr  # our algorithm read the hyperparameters
