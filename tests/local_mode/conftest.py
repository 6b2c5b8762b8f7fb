"""Fixtures of both SDKs' tests: fake AWS settings, image names, a network, small channels.

These modules run in an environment that holds one of the SDKs and not our package; see
scripts/test-local-mode. Everything that is ours runs inside the built images.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ClassFolders

collect_ignore_glob = [] if importlib.util.find_spec("sagemaker") else ["test_*.py"]

NETWORK = "sagemaker-local"
"""The name of the Docker network in both SDKs."""

AWS_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}

SDK_SETTINGS = """\
SchemaVersion: '1.0'
SageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}
"""


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the AWS account and switch off telemetry: by default the SDKs report each call."""
    settings = tmp_path_factory.mktemp("sdk") / "config.yaml"
    settings.write_text(SDK_SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "SAGEMAKER_", "SM_", "TRAINING_JOB")):
                patch.delenv(name)
        for name, value in AWS_SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("SAGEMAKER_USER_CONFIG_OVERRIDE", str(settings))
        patch.setenv("SAGEMAKER_ADMIN_CONFIG_OVERRIDE", str(settings))
        yield


@pytest.fixture(scope="session", autouse=True)
def network(own_environment: None) -> Iterator[None]:
    """The SDKs' network with ports on 127.0.0.1 only; it is removed with its containers.

    The SDKs never remove the containers of finished jobs; one that still runs was forgotten.
    """
    inspected = subprocess.run(["docker", "network", "inspect", NETWORK], capture_output=True)
    is_ours = inspected.returncode != 0
    if is_ours:
        binding = "com.docker.network.bridge.host_binding_ipv4=127.0.0.1"
        labels = [f"com.docker.compose.network={NETWORK}", "com.docker.compose.project=tests"]
        docker("network", "create", "-o", binding, *(f"--label={x}" for x in labels), NETWORK)
    before = set(_containers("--all"))
    yield
    running = set(_containers()) - before
    left = set(_containers("--all")) - before
    if left:
        docker("rm", "--force", "--volumes", *left)
    if is_ours:
        docker("network", "rm", NETWORK)
    assert not running, f"containers that a test did not stop: {running}"


def docker(*arguments: str) -> str:
    """Run a docker command and return its output."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _containers(*options: str) -> list[str]:
    return docker("ps", "--quiet", "--filter", f"network={NETWORK}", *options).split()


@pytest.fixture(scope="session")
def train_image() -> str:
    """Name and tag of the train image that scripts/test-local-mode built."""
    return os.environ["TRAIN_IMAGE"]


@pytest.fixture(scope="session")
def serve_image() -> str:
    """Name and tag of the serve image."""
    return os.environ["SERVE_IMAGE"]


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port for the endpoint; only one runs at a time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def folders(
    tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders
) -> dict[str, Path]:
    """Channels of class folders, three colors: train with 36 images, validation with 15."""
    root = tmp_path_factory.mktemp("folders")
    return {
        "train": write_class_folders(root / "train"),
        "validation": write_class_folders(root / "validation", per_class=5, seed=1),
    }


@pytest.fixture(scope="session")
def records(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path], train_image: str
) -> dict[str, Path]:
    """Channels of records that the image's `preprocess` wrote from class folders."""
    root = tmp_path_factory.mktemp("records")
    mounts = [f"--volume={folders['train']}:/images:ro", f"--volume={root}:/records"]
    command = ["preprocess", "--input", "/images", "--output", "/records", "--resize", "36"]
    docker("run", "--rm", "--network=none", *mounts, train_image, *command)
    return {name: root / name for name in ("train", "validation")}


Images = Callable[[Path], list[tuple[str, bytes]]]


@pytest.fixture(scope="session")
def labeled_images() -> Images:
    """Return (class name, bytes) of each image in class folders."""

    def read(folder: Path) -> list[tuple[str, bytes]]:
        return [(path.parent.name, path.read_bytes()) for path in sorted(folder.glob("*/*.jpg"))]

    return read
