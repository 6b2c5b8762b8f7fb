"""The server's address, and how the server ends before it listens."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contract.jobs import run_command, running_server


@pytest.fixture
def red(small_channels: dict[str, Path]) -> bytes:
    return (small_channels["validation"] / "red" / "red000.jpg").read_bytes()


def test_a_port_in_use_ends_the_server_with_an_error_message(trained_job: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        model = trained_job / "model"
        done = run_command("serve", "--model", model, "--host", "127.0.0.1", "--port", port)
        nowhere = run_command("serve", "--model", model, "--host", "300.1.1.1", "--port", port)
    assert done.returncode == nowhere.returncode == 2
    assert done.stderr.startswith(f"ClientError: cannot listen on 127.0.0.1, port {port}: ")
    assert nowhere.stderr.startswith("ClientError: cannot listen on 300.1.1.1")


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_served(trained_job: Path, red: bytes, host: str) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with running_server(trained_job / "model", IMAGE_CLASSIFICATION_HOST=host) as server:
        assert server.invoke(red, Content_Type="image/jpeg").status == 200


def test_sigterm_ends_the_server_at_once_while_it_reads_the_artifact(
    trained_job: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained_job / "model", model)
    os.truncate(model / "model.onnx", 2**38)  # a hole, which takes minutes to read
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["files"]["model.onnx"]["bytes"] = 2**38
    (model / "manifest.json").write_text(json.dumps(manifest))
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classification", "serve"],
        env=os.environ
        | {"IMAGE_CLASSIFICATION_MODEL_DIR": str(model), "SAGEMAKER_BIND_TO_PORT": "18095"},
    )
    try:
        open_files = Path(f"/proc/{process.pid}/fd")
        while not any(is_link_to(link, model / "model.onnx") for link in open_files.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()


def is_link_to(link: Path, path: Path) -> bool:
    try:
        return link.readlink() == path
    except OSError:  # closed meanwhile
        return False
