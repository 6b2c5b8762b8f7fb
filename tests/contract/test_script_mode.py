"""Script mode runs the user's script in its own process, through sagemaker-training."""

from __future__ import annotations

import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sagemaker_training")

from tests.contract.jobs import read_to, run_command, run_train, write_job, write_wheel

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
    assert seen["SM_HP_FLIP"] == "true" and seen["SM_USER_ENTRY_POINT"] == "train.py"
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


LOCAL = """
import os, sys
for folder in ("MODEL_DIR", "OUTPUT_DATA_DIR", "OUTPUT_INTERMEDIATE_DIR"):
    path = os.environ["SM_" + folder]
    os.makedirs(path, exist_ok=True)
    open(os.path.join(path, folder.lower()), "w").close()
sys.exit(sys.argv[1:] != ["--epochs", "3"] and "no epochs")
"""


def test_a_local_job_leaves_only_what_the_script_writes_and_runs_the_newest_code(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    code, output = tmp_path / "src", tmp_path / "model"
    code.mkdir()
    channel = f"training={small_channels['train']}"
    command = ["train", "--channel", channel, "--output", output]
    for name in ("program=train.py", f"submit_directory={code}", "s3_output=s3://bucket/job"):
        command += ["--set", f"sagemaker_{name}"]
    (code / "train.py").write_text("raise ValueError('an older version')")
    failed = run_command(*command)
    assert failed.returncode == 1
    reason = "AlgorithmError: train.py ended with exit code 1: ValueError: an older version"
    assert failed.stderr.splitlines()[-1] == reason
    (code / "train.py").write_text(LOCAL)
    done = run_command(*command, "--set", "epochs=3")
    assert done.returncode == 0, done.stdout + done.stderr
    left = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert left == ["intermediate/output_intermediate_dir", "model_dir", "output_data_dir"]
    assert sorted(path.name for path in output.iterdir()) == ["intermediate", *left[1:]]
    assert "sagemaker_s3_output is ignored" in done.stdout


@pytest.mark.parametrize("kind", ["w:gz", "w", "folder"])
def test_the_code_can_be_a_submitted_folder_or_tar_file(
    tmp_path: Path, small_channels: dict[str, Path], kind: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(TRAIN)
    (source / "sibling.py").write_text("VALUE = 8")
    submitted = source
    if kind != "folder":
        submitted = tmp_path / "sourcedir.tar.gz"
        with tarfile.open(submitted, kind) as tar:
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


WAITING = """
import os, signal, sys, time
def stop(number, frame):
    open(os.environ["SM_MODEL_DIR"] + "/saved", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", os.getpid(), flush=True)
while True:
    time.sleep(0.05)
"""


def started(base: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "image_classification", "train", "--base-dir", str(base)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )


@pytest.mark.parametrize("program", ["train.py", "train.sh"])
def test_sigterm_reaches_the_script(
    tmp_path: Path, small_channels: dict[str, Path], program: str
) -> None:
    code = {"train.py": WAITING, "train.sh": "python train.py\necho the shell went on\n"}
    base = script_job(tmp_path, small_channels, code, sagemaker_program=program)
    process = started(base)
    script = int(read_to(process, "ready").split("ready")[1])
    process.terminate()
    try:
        assert process.wait(30) == 0
    except BaseException:
        os.kill(script, signal.SIGKILL)
        raise
    assert process.stdout is not None
    assert ("the shell went on" in process.stdout.read()) == (program == "train.sh")
    process.stdout.close()
    assert (base / "model" / "saved").is_file()


def archived(code: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, text in code.items():
            header = tarfile.TarInfo(name)
            header.size = len(text.encode())
            tar.addfile(header, io.BytesIO(text.encode()))
    return stream.getvalue()


@contextmanager
def bucket(
    objects: dict[str, bytes],
    asked: threading.Event | None = None,
    held: threading.Event | None = None,
) -> Iterator[str]:
    """Answer as S3 does; set `asked` at a request, and answer it only when `held` is set."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if asked is not None and held is not None:
                asked.set()
                held.wait(30)
            content = objects.get(self.path.split("?")[0])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(objects[self.path.split("?")[0]])

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


S3 = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
}


def test_the_code_can_be_in_s3(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    content = archived({"train.py": TRAIN, "sibling.py": "VALUE = 9"})
    given = {"sagemaker_submit_directory": '"s3://bucket/job/sourcedir.tar.gz"'}
    base = script_job(tmp_path, small_channels, {}, **given)
    with bucket({"/bucket/job/sourcedir.tar.gz": content}) as address:
        done = run_command("train", "--base-dir", base, AWS_ENDPOINT_URL=address, **S3)
        assert done.returncode == 0, done.stdout + done.stderr
        assert seen_by(base)["sibling"] == 9
        given = {"sagemaker_submit_directory": '"s3://bucket/no/such.tar.gz"'}
        base = script_job(tmp_path / "other", small_channels, {}, **given)
        done = run_command("train", "--base-dir", base, AWS_ENDPOINT_URL=address, **S3)
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith(
        "ClientError: sagemaker_submit_directory=s3://bucket/no/such.tar.gz cannot be read"
    )
    assert "404" in failure and "Traceback" not in done.stderr


def test_sigterm_before_the_script_starts_ends_the_job(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = {"sagemaker_submit_directory": '"s3://bucket/job/sourcedir.tar.gz"'}
    base = script_job(tmp_path, small_channels, {}, **given)
    asked, held = threading.Event(), threading.Event()
    content = archived({"train.py": "print('it runs')"})
    with bucket({"/bucket/job/sourcedir.tar.gz": content}, asked, held) as address:
        process = started(base, AWS_ENDPOINT_URL=address, **S3)
        try:
            assert asked.wait(60)
            process.terminate()
        finally:
            held.set()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert process.stdout is not None
    assert "it runs" not in process.stdout.read()
    process.stdout.close()
    assert "before train.py started" in (base / "output" / "failure").read_text()


@pytest.mark.parametrize("program", ["train.py", "train.sh"])
def test_requirements_are_installed_from_the_wheels_of_the_code_without_a_network(
    tmp_path: Path, small_channels: dict[str, Path], program: str
) -> None:
    text = "import petals, os\nopen(os.environ['SM_MODEL_DIR'] + '/' + petals.NAME, 'w')"
    code = {"train.py": text, "train.sh": "python train.py", "requirements.txt": "petals==1.0\n"}
    base = script_job(tmp_path, small_channels, code, sagemaker_program=program)
    write_wheel(base / "code" / "wheels", "petals", "NAME = 'rose'", "Requires-Dist: stamens\n")
    write_wheel(base / "code" / "wheels", "stamens", "")
    settings = {  # not into the environment of the tests
        "PIP_TARGET": str(tmp_path / "target"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "target"), *sys.path]),
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    done = run_command("train", "--base-dir", base, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (base / "model" / "rose").is_file()


def test_a_requirement_that_cannot_be_installed_is_named_with_the_reason(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    code = {"train.py": "", "requirements.txt": "petals==2.0\n"}
    base = script_job(tmp_path, small_channels, code)
    write_wheel(base / "code" / "wheels", "petals", "")
    done = run_command("train", "--base-dir", base, PIP_TARGET=str(tmp_path / "target"))
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("ClientError: requirements.txt cannot be installed: Could not find a")
    assert "petals==2.0" in failure and "from versions: 1.0" in failure
    assert "Traceback" not in done.stderr


def test_without_the_package_the_error_is_the_command_that_installs_it(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = script_job(tmp_path, small_channels, {"train.py": ""})
    (tmp_path / "sagemaker_training.py").write_text("import no_such_module")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = run_command("train", "--base-dir", base, PYTHONPATH=path)
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert "pip install 'sagemaker-image-classification[script-mode]'" in failure
    assert "no_such_module is missing" in failure and "Traceback" not in done.stderr


@pytest.mark.survival
def test_torchrun_starts_the_processes_and_the_error_is_that_of_the_script(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    pytest.importorskip("torch")
    text = """
import os
if os.environ["RANK"] == "1":
    raise ValueError("rank 1 of " + os.environ["WORLD_SIZE"] + " has no roses")
"""
    given = {
        "sagemaker_torch_distributed_enabled": "true",
        "sagemaker_mpi_num_of_processes_per_host": "2",
    }
    base = script_job(tmp_path, small_channels, {"train.py": text}, **given)
    done = run_train(base)
    assert done.returncode == 1, done.stderr
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith(
        "AlgorithmError: train.py ended with exit code 1: ValueError: rank 1 of"
    )


@pytest.mark.parametrize(
    ("code", "given", "reason"),
    [
        ({"other.py": ""}, {}, "sagemaker_program=train.py is not in"),
        ({}, {}, "there is no code: put it into"),
        ({}, {"sagemaker_submit_directory": "/no/such.tar.gz"}, "there is no such file"),
        ({"train.exe": ""}, {"sagemaker_program": "train.exe"}, "expected a .py or a .sh file"),
        ({"train.py": ""}, {"sagemaker_mpi_enabled": "true"}, "sagemaker_mpi_enabled: mpirun"),
        ({"train.py": ""}, {"sagemaker_parameter_server_enabled": "true"}, "no image has what"),
        ({"my train.py": ""}, {"sagemaker_program": "my train.py"}, "the character(s) ' '"),
        ({"train.py": ""}, {"text": json.dumps("x" * (1 << 18))}, "cannot be started: [Errno 7]"),
        ({"train.py": ""}, {"text": json.dumps("x\0")}, "embedded null byte"),
    ],
    ids=["program", "code", "archive", "no script", "MPI", "servers", "blank", "long", "zero"],
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
