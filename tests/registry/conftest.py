"""A registry with a password, moto instead of AWS, and a separate Docker configuration.

What only the registry suite's environment has is imported where it is used: the default suite
collects this folder too, and leaves its tests out by their marker.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

REGION = "us-east-1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests in this folder: they need a Docker engine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.registry)


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        time.sleep(0.1)
    raise AssertionError(f"{process.args} does not listen on port {port}")


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that direct the AWS CLI to this session's moto."""
    port = free_port()
    server = Path(sys.executable).with_name("moto_server")
    command = [server, "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    _wait_for(port, process)
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_PAGER": "",
    }
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session")
def ecr(aws: dict[str, str]) -> Any:
    """A client of moto's ECR, to check what the scripts did."""
    import boto3

    return boto3.client(
        "ecr",
        region_name=REGION,
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@pytest.fixture(scope="session")
def password(ecr: Any) -> str:
    """The password that ECR issues for 12 hours."""
    (grant,) = ecr.get_authorization_token()["authorizationData"]
    user, _, text = base64.b64decode(grant["authorizationToken"]).decode().partition(":")
    assert user == "AWS"
    return text


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, password: str) -> Iterator[str]:
    """host:port of a registry that accepts only the user AWS with ECR's password."""
    import bcrypt

    program = shutil.which("docker-registry")
    assert program, "apt-get install docker-registry, or .ci/engine start"
    folder = tmp_path_factory.mktemp("registry")
    port = free_port()
    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"AWS:{digest}\n")
    (folder / "registry.yml").write_text(
        f"""version: 0.1
http: {{addr: '127.0.0.1:{port}'}}
storage: {{filesystem: {{rootdirectory: '{folder / "data"}'}}}}
auth: {{htpasswd: {{realm: ECR, path: '{folder / "htpasswd"}'}}}}
"""
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "registry.yml")], stdout=log, stderr=log
        )
    _wait_for(port, process)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(30)
    shutil.rmtree(folder)


@pytest.fixture
def environment(tmp_path: Path, aws: dict[str, str]) -> dict[str, str]:
    """The scripts' environment: moto's AWS and a Docker configuration without logins."""
    settings = ("REGISTRY", "REGION", "BACKEND", "DEVICE", "CUDA", "OUTPUT", "PORT", "PREPROCESS")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "CODEBUILD_")) and name not in settings
    }
    mine = tmp_path / "docker-config"
    mine.mkdir()
    theirs = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker"))
    if (theirs / "cli-plugins").is_dir():
        (mine / "cli-plugins").symlink_to((theirs / "cli-plugins").resolve())
    return {**inherited, **aws, "DOCKER_CONFIG": str(mine)}


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def make(environment: dict[str, str]) -> Run:
    """Run `make TARGET...` in the checkout, with variables as keyword arguments."""

    def run(*targets: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *targets],
            cwd=REPOSITORY,
            env={**environment, **settings},
            capture_output=True,
            text=True,
        )

    return run


def docker(*arguments: str, **options: object) -> str:
    """Run docker and return its output."""
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def remove_images() -> Iterator[Callable[[str], None]]:
    """Register a part of image names; those images are removed when the test ends."""
    parts: list[str] = []
    yield parts.append
    for line in docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
        if any(part in line for part in parts):
            docker("image", "rm", line)
