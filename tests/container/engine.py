"""Containers for the tests, with the options of a platform; they are always removed."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from image_classification import backends
from tests.contract.jobs import Server

VERSION = os.environ.get("VERSION") or version("sagemaker-image-classification")
LOCKS = Path(__file__).parents[2] / "containers" / "locks"
BACKENDS = [name for name in backends.names() if (LOCKS / f"train-{name}-cpu.txt").is_file()]
SERVE_IMAGE = f"image-classification-serve:{VERSION}"
CUDA_LOCKS = os.environ.get("CUDA_IMAGES", "serve-cu12").split()
"""The CUDA images to test, by their locks; scripts/test-cuda-images names the others."""

HARDENED = [
    *("--read-only", "--tmpfs", "/tmp", "--user", "1000:1000", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
]


def train_image(backend: str) -> str:
    """Return the name that scripts/build gives to the CPU variant."""
    return f"image-classification-train:{VERSION}-{backend}"


def image_of(lock: str) -> str:
    """Return the name that scripts/build gives to the image of a lock, such as train-torch-cu13."""
    role, *rest = lock.split("-")
    tag = "-".join([VERSION, *(part for part in rest if part != "cpu")])
    return f"image-classification-{role}:{tag}"


def docker(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a docker command; the caller checks its exit code."""
    command = ["docker", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def run(
    image: str,
    *command: str,
    volumes: Mapping[Path, str] | None = None,
    options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a container to its end, without a network."""
    mounts = [text for folder, at in (volumes or {}).items() for text in ("-v", f"{folder}:{at}")]
    return docker("run", "--rm", "--network", "none", *mounts, *options, image, *command)


def inspect(kind: str, name: str) -> dict[str, Any]:
    """Return the result of `docker image inspect` or `docker container inspect`."""
    done = docker(kind, "inspect", name)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)[0])


@dataclass
class Container:
    """A container in the background."""

    name: str

    def log(self) -> str:
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def wait_for(self, text: str, seconds: float = 90) -> None:
        """Wait until the log contains `text`."""
        deadline = time.monotonic() + seconds
        while not re.search(text, self.log()):
            assert time.monotonic() < deadline and self.is_running(), self.log()
            time.sleep(0.1)

    def is_running(self) -> bool:
        return bool(inspect("container", self.name)["State"]["Running"])

    def stop(self, seconds: int) -> int:
        """Send SIGTERM, and SIGKILL after `seconds`, as the platform does; return the exit code."""
        docker("stop", "-t", str(seconds), self.name)
        return self.exit_code()

    def exit_code(self) -> int:
        done = docker("wait", self.name)
        return int(done.stdout)


@contextmanager
def running(image: str, *command: str, options: Sequence[str | Path] = ()) -> Iterator[Container]:
    """Start a container in the background; remove it when the block ends."""
    name = f"image-classification-test-{uuid.uuid4().hex[:12]}"
    started = docker("run", "--detach", "--name", name, *options, image, *command)
    assert started.returncode == 0, started.stderr
    try:
        yield Container(name)
    finally:
        docker("rm", "--force", name)


@dataclass(kw_only=True)
class ServingContainer(Server):
    """The serve program in a container, on a port of 127.0.0.1."""

    container: Container
    seconds_to_ping: float = 0.0


@contextmanager
def serving(
    image: str, model: Path, options: Sequence[str | Path] = HARDENED
) -> Iterator[ServingContainer]:
    """Serve an artifact folder, mounted read-only, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    published = ["-p", f"127.0.0.1:{port}:8080", "-v", f"{model}:/opt/ml/model:ro"]
    began = time.monotonic()
    with running(image, "serve", options=[*published, *options]) as container:
        server = ServingContainer(None, port, container=container)  # type: ignore[arg-type]
        while not _answers_ping(server):
            assert container.is_running(), container.log()
            assert time.monotonic() - began < 60, container.log()
            time.sleep(0.02)
        server.seconds_to_ping = time.monotonic() - began
        yield server


def _answers_ping(server: Server) -> bool:
    try:
        return server.get("/ping").status == 200
    except OSError:
        return False
