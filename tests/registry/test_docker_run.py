"""scripts/train-local and scripts/serve-local: the images with plain docker run."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest

from tests.conftest import REPOSITORY, ClassFolders
from tests.registry.conftest import docker, free_port

TRAIN = str(REPOSITORY / "scripts" / "train-local")
SERVE = str(REPOSITORY / "scripts" / "serve-local")
JOB = ("num_layers=20", "image_shape=3,32,32", "epochs=2", "mini_batch_size=4")
OTHER_USER = 4242


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def class_folders(folder: Path, write_class_folders: ClassFolders) -> Path:
    return write_class_folders(folder / "colors")


@pytest.fixture(scope="module")
def trained(folder: Path, class_folders: Path) -> Path:
    """OUTPUT of one job."""
    output = folder / "trained"
    command = [TRAIN, str(class_folders), *JOB]
    subprocess.run(command, env={**os.environ, "OUTPUT": str(output)}, check=True)
    return output


def train(
    output: Path, *arguments: str | Path, prefix: tuple[str, ...] = (), **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OUTPUT": str(output), **settings}
    command = [*prefix, TRAIN, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_class_folders_become_an_artifact_that_the_user_owns(
    folder: Path, class_folders: Path, environment: dict[str, str]
) -> None:
    home = folder / "home"
    shutil.copytree(environment["DOCKER_CONFIG"], home, symlinks=True)
    os.chown(home, OTHER_USER, OTHER_USER)
    socket = urlparse(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")).path
    prefix = ("setpriv", "--reuid", str(OTHER_USER), "--regid", str(OTHER_USER))
    prefix += ("--groups", str(Path(socket).stat().st_gid))
    output = home / "run"
    result = train(output, class_folders, *JOB, prefix=prefix, DOCKER_CONFIG=str(home))
    assert result.returncode == 0, result.stderr
    assert "contains class folders: packing them" in result.stdout
    assert "Epoch[1] Validation-accuracy=" in result.stdout
    files = [output, *output.rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in files} == {(OTHER_USER,) * 2}
    assert json.loads((output / "model" / "labels.json").read_text())
    assert (output / "output" / "data" / "validation-predictions.jsonl").exists()


def test_channels_are_used_without_preprocessing(tmp_path: Path, trained: Path) -> None:
    result = train(tmp_path / "run", trained / "channels", *JOB)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "run" / "channels").exists()
    assert (tmp_path / "run" / "model" / "model.onnx").exists()


def test_train_can_be_the_name_of_a_class(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    data = write_class_folders(tmp_path / "vehicles", classes=("bus", "car", "train"))
    result = train(tmp_path / "run", data, *JOB, "epochs=1", PREPROCESS="--resize 32")
    assert result.returncode == 0, result.stderr
    labels = json.loads((tmp_path / "run" / "model" / "labels.json").read_text())
    assert "train" in json.dumps(labels)


def test_a_failing_job_returns_its_exit_code_and_failure_file_with_values_unchanged(
    tmp_path: Path, trained: Path
) -> None:
    value = r'a "quoted\" value, 100 %'
    result = train(tmp_path / "run", trained / "channels", *JOB, f"learning_rate={value}")
    assert result.returncode == 2
    written = json.loads((tmp_path / "run/input/config/hyperparameters.json").read_text())
    assert written["learning_rate"] == value
    failure = (tmp_path / "run" / "output" / "failure").read_text()
    assert failure.startswith("ClientError: ")
    assert "learning_rate" in failure
    assert failure in result.stderr
    assert "the job ended with exit code 2" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_with_the_best_epoch_so_far(
    tmp_path: Path, trained: Path, number: signal.Signals
) -> None:
    command = [TRAIN, str(trained / "channels"), *JOB, "epochs=100000"]
    environment = {**os.environ, "OUTPUT": str(tmp_path / "run")}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if "Epoch[1] Train-accuracy" in line:
                break
        os.killpg(process.pid, number)  # as a terminal does on Ctrl-C
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    assert (tmp_path / "run" / "model" / "model.onnx").exists()
    assert f"train-local-{process.pid}" not in docker("ps", "--all", "--format", "{{.Names}}")


def test_an_output_folder_with_files_is_refused_and_unchanged(
    tmp_path: Path, trained: Path
) -> None:
    (tmp_path / "mine").write_text("precious")
    result = train(tmp_path, trained / "channels", *JOB)
    assert result.returncode == 2
    assert f"ClientError: OUTPUT={tmp_path}: expected a new or an empty folder" in result.stderr
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "settings", "reason"),
    [
        (["/nowhere"], {}, "ClientError: /nowhere: expected a folder"),
        (["/tmp", "epochs"], {}, "ClientError: epochs: expected a hyperparameter as NAME=VALUE"),
        (["/tmp"], {"VERSION": "9.9.9"}, "9.9.9-torch does not exist: run make build-train"),
        (["/tmp"], {"DEVICE": "tpu"}, "ClientError: DEVICE=tpu: expected cpu or cuda"),
    ],
)
def test_a_wrong_argument_fails_before_anything_is_written(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], reason: str
) -> None:
    result = train(tmp_path / "run", *arguments, **settings)
    assert result.returncode == 2
    assert reason in result.stderr
    assert not (tmp_path / "run").exists()


class Server:
    """scripts/serve-local in its own process."""

    def __init__(self, model: Path) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [SERVE, str(model)], env=os.environ | {"PORT": str(self.port)}
        )

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "image/jpeg", "Accept": "application/json;verbose"}
        connection.request(method, path, body, headers if body else {})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def wait(self) -> None:
        while self.process.poll() is None:
            try:
                if self.request("GET", "/ping")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"serve-local ended with {self.process.returncode}")

    @property
    def container(self) -> str:
        return docker("ps", "--quiet", "--filter", f"publish={self.port}")


def test_the_serving_container_is_read_only_and_unprivileged(
    trained: Path, class_folders: Path
) -> None:
    server = Server(trained)
    try:
        server.wait()
        image = next((class_folders / "red").iterdir()).read_bytes()
        status, body = server.request("POST", "/invocations", image)
        assert status == 200, body
        assert sorted(json.loads(body)["labels"]) == ["blue", "green", "red"]
        status, page = server.request("GET", "/")
        assert status == 200 and b"Choose images" in page
        (settings,) = json.loads(docker("inspect", server.container))
        host = settings["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert host["PortBindings"]["8080/tcp"][0]["HostIp"] == "127.0.0.1"
        assert settings["Config"]["User"].split(":")[0] not in {"", "0"}
    finally:
        server.process.terminate()
    assert server.process.wait(60) == 0
    assert not server.container


def test_serve_local_accepts_an_archive(tmp_path: Path, trained: Path, jpeg: bytes) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in (trained / "model").iterdir():
            tar.add(path, path.name)
    server = Server(archive)
    try:
        server.wait()
        status, body = server.request("POST", "/invocations", jpeg)
        assert status == 200, body
    finally:
        server.process.terminate()
    assert server.process.wait(60) == 0
