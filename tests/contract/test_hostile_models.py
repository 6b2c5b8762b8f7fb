"""Models that fail: their own requests are refused, and nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from onnx import ModelProto

from tests import graphs
from tests.contract.jobs import Server, run_command, running_server
from tests.contract.test_server_faults import BREAK as BRIGHT
from tests.contract.test_server_faults import GRAY


def said(server: Server, body: bytes) -> tuple[int, str]:
    answer = server.invoke(body, Content_Type="image/png")
    return answer.status, json.loads(answer.body)["error"] if answer.status != 200 else ""


def test_a_graph_that_fails_on_one_image_is_a_500_of_that_request_and_the_process_stays(
    tmp_path: Path,
) -> None:
    model = graphs.write_model(tmp_path / "model", graphs.failing_if_bright())
    with running_server(model) as server:
        process = server.worker()
        for _ in range(3):
            status, reason = said(server, BRIGHT)
            assert status == 500 and "the model cannot answer: the graph fails on 1 image" in reason
            assert said(server, GRAY) == (200, "")
        assert server.worker() == process


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (graphs.failing_late(), "the graph fails on 1 image"),
        (graphs.huge(2**45), "the graph fails on 1 image"),
        (graphs.external("/etc/passwd"), "external data"),
        (graphs.endless(), "Loop"),
    ],
    ids=["failing", "huge", "external", "endless"],
)
def test_a_server_whose_only_model_cannot_be_served_ends_with_its_fault(
    made: ModelProto, reason: str, tmp_path: Path
) -> None:
    model = graphs.write_model(tmp_path / "model", made)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = run_command(
        "serve",
        IMAGE_CLASSIFICATION_MODEL_DIR=str(model),
        IMAGE_CLASSIFICATION_HOST="127.0.0.1",
        SAGEMAKER_BIND_TO_PORT=str(port),
    )
    assert done.returncode == 3 and reason in done.stderr + done.stdout
    assert "ClientError" in done.stderr + done.stdout and "Traceback" not in done.stderr


def test_a_model_that_is_damaged_after_the_start_ends_the_server_when_a_process_loads_it(
    tmp_path: Path,
) -> None:
    model, log = graphs.write_model(tmp_path / "model", graphs.healthy()), tmp_path / "log"
    with running_server(model, log=log, exit_code=3) as server:
        (model / "model.onnx").write_bytes(graphs.failing().SerializeToString())
        assert said(server, GRAY) == (200, "")
        os.kill(server.worker(), signal.SIGKILL)
        assert server.process.wait(30) == 3
    assert "model.onnx: changed since it was written" in log.read_text()
