"""Job trees and real processes for the contract tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

BACKEND = "torch"
"""The backend of jobs that name none; `pytest --backend` sets it."""

ONE_HOST = ("reference",)
"""Backends that refuse a job of several hosts."""

BACKEND_VARIABLE = "IMAGE_CLASSIFICATION_BACKEND"


def write_job(
    base: Path,
    hyperparameters: Mapping[str, object],
    channels: Mapping[str, Path],
    content_types: Mapping[str, str] | None = None,
) -> Path:
    """Write a job tree like /opt/ml, with the configuration files and copies of the channels."""
    config = base / "input" / "config"
    config.mkdir(parents=True, exist_ok=True)
    text = {name: str(value) for name, value in hyperparameters.items()}
    (config / "hyperparameters.json").write_text(json.dumps(text))
    inputs = {}
    for name, folder in channels.items():
        shutil.copytree(folder, base / "input" / "data" / name)
        inputs[name] = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
        if content_types and name in content_types:
            inputs[name]["ContentType"] = content_types[name]
    (config / "inputdataconfig.json").write_text(json.dumps(inputs))
    resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    for folder in ("model", "output/data"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    return base


def write_wheel(folder: Path, name: str, text: str, requires: str = "") -> None:
    """Write a wheel of one module."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}"
    files = {
        f"{name}.py": text,
        f"{about}/METADATA": metadata,
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, content in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(path, content)


def write_pipe(path: Path, content: bytes) -> None:
    """Write a FIFO from a thread, as the platform does; a reader can stop before its end."""

    def write() -> None:
        with suppress(BrokenPipeError), path.open("wb") as fifo:
            fifo.write(content)

    threading.Thread(target=write, daemon=True).start()


def run_command(
    *arguments: str | Path,
    program: str = "image_classification",
    folder: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run the `image-classification` command, or another program, in its own process."""
    return subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"IMAGE_CLASSIFICATION_CPU_COUNT": "2"} | environment,
    )


def run_train(base: Path) -> subprocess.CompletedProcess[str]:
    """Run the container's `train` on a job tree."""
    return run_command("train", "--base-dir", base)


def read_to(process: subprocess.Popen[str], text: str) -> str:
    """Read the log up to a line with `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"the process ended without {text!r}:\n{seen}")


@dataclass
class Answer:
    """A response."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> object:
        return json.loads(self.body)


@dataclass
class Server:
    """A server process on this machine."""

    process: subprocess.Popen[bytes]
    port: int
    host: str = "127.0.0.1"

    def get(self, path: str) -> Answer:
        return self._send(urllib.request.Request(f"http://{self.host}:{self.port}{path}"))

    def invoke(self, body: bytes, **headers: str) -> Answer:
        return self.send("POST", "/invocations", body, **headers)

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://{self.host}:{self.port}{path}"
        return self._send(urllib.request.Request(url, data=body, headers=named, method=method))

    def worker(self) -> int:
        """Return the worker process, the only child of the started process."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) == 1, children
        return int(children[0])

    def _send(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers))


@contextmanager
def running_server(
    model: Path,
    *,
    program: str = "image_classification",
    log: Path | None = None,
    exit_code: int = 0,
    **environment: str,
) -> Iterator[Server]:
    """Serve `model` until the block ends; SIGTERM then ends the process with `exit_code`.

    Its output goes to the file `log` where one is given.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = log.open("wb") if log else None
    process = subprocess.Popen(
        [sys.executable, "-m", program, "serve"],
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        env=os.environ
        | {
            "IMAGE_CLASSIFICATION_MODEL_DIR": str(model),
            "IMAGE_CLASSIFICATION_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": str(port),
        }
        | environment,
    )
    if output:
        output.close()
    host = environment.get("IMAGE_CLASSIFICATION_HOST", "127.0.0.1").strip("[]")
    server = Server(process, port, f"[{host}]" if ":" in host else host)
    try:
        _await_ping(server)
        yield server
    finally:
        process.terminate()
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code == exit_code, f"the server ended with exit code {code} after SIGTERM"


def _await_ping(server: Server) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended with exit code {server.process.returncode}")
        try:
            if server.get("/ping").status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("no ping of 200 within 30 s")
