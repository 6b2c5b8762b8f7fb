"""Models that fail: their own requests are refused, and nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from onnx import ModelProto

from tests import graphs
from tests.contract.jobs import Server, run_command, running_server
from tests.contract.test_multi_model import invoke, load, unload
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


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A multi-model endpoint with the healthy model `good`, whose models have four seconds."""
    settings = {
        "SAGEMAKER_MULTI_MODEL": "true",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "4",
        "SAGEMAKER_GUNICORN_THREADS": "2",
        "IMAGE_CLASSIFICATION_MODEL_MEMORY_MB": "1000",
    }
    model = graphs.write_model(tmp_path_factory.mktemp("good"), graphs.healthy())
    with running_server(model, **settings) as server:
        assert load(server, "good", model).status == 200
        yield server


@contextmanager
def invoking(server: Server, name: str) -> Iterator[list[int]]:
    """Invoke a model all the time, and collect the statuses."""
    statuses: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            statuses.append(invoke(server, name, GRAY).status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
        while len(statuses) < 2:
            time.sleep(0.01)
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (graphs.failing_late(), "the graph fails on 1 image"),
        (graphs.huge(2**45), "the graph fails on 1 image"),
        (graphs.huge(2**31), "the graph fails on 1 image"),
        (graphs.endless(), "Loop"),
        (graphs.external("../../../../etc/passwd"), "external data"),
        (graphs.foreign(), "no custom ones"),
        (graphs.not_a_number(), "NaN"),
        (graphs.slow(4000), "took more than 4 s"),
        (b"\x08\x08\x3a\x00", "ONNX Runtime cannot load it"),
    ],
    ids=["failing", "128TiB", "8GiB", "loop", "external", "custom", "nan", "slow", "empty"],
)
def test_a_model_that_cannot_be_loaded_is_a_400_while_others_are_answered(
    made: ModelProto | bytes, reason: str, shared_server: Server, tmp_path: Path
) -> None:
    bad = graphs.write_model(tmp_path / "bad", made)
    process = shared_server.worker()
    with invoking(shared_server, "good") as statuses:
        answer = load(shared_server, "bad", bad)
        assert answer.status == 400 and reason in json.loads(answer.body)["error"], answer
        assert invoke(shared_server, "bad", GRAY).status == 404
    assert set(statuses) == {200}
    assert shared_server.worker() == process and len(model_processes(shared_server)) == 1


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (graphs.failing_if_bright(), "the graph fails on 1 image"),
        (graphs.filling_if_bright(2**45), "the graph fails on 1 image"),
        (graphs.filling_if_bright(2**31), "the graph fails on 1 image"),
        (graphs.slow_if_bright(4000), "took more than 4 s"),
    ],
    ids=["failing", "128TiB", "8GiB", "slow"],
)
def test_a_model_that_fails_later_is_a_500_of_its_requests_while_others_are_answered(
    made: ModelProto, reason: str, shared_server: Server, tmp_path: Path
) -> None:
    assert load(shared_server, "late", graphs.write_model(tmp_path / "late", made)).status == 200
    process = shared_server.worker()
    with invoking(shared_server, "good") as statuses:
        for _ in range(2):
            answer = invoke(shared_server, "late", BRIGHT)
            assert answer.status == 500 and reason in json.loads(answer.body)["error"], answer
            assert invoke(shared_server, "late", GRAY).status == 200
    assert set(statuses) == {200}
    assert unload(shared_server, "late").status == 200
    assert shared_server.worker() == process and len(model_processes(shared_server)) == 1


def test_a_model_whose_process_is_killed_answers_again(
    shared_server: Server, tmp_path: Path
) -> None:
    folder = graphs.write_model(tmp_path / "model", graphs.healthy())
    assert load(shared_server, "killed", folder).status == 200
    (killed,) = model_processes(shared_server)[1:]
    os.kill(killed, signal.SIGKILL)
    assert invoke(shared_server, "killed", GRAY).status == 200
    (folder / "model.onnx").write_bytes(graphs.failing_late().SerializeToString())
    (killed,) = model_processes(shared_server)[1:]
    os.kill(killed, signal.SIGKILL)
    changed = invoke(shared_server, "killed", GRAY)
    assert changed.status == 500 and b"changed since it was written" in changed.body
    assert invoke(shared_server, "good", GRAY).status == 200
    assert unload(shared_server, "killed").status == 200


def test_a_slow_model_does_not_take_the_threads_from_the_others(
    shared_server: Server, tmp_path: Path
) -> None:
    slow = graphs.write_model(tmp_path / "slow", graphs.slow_if_bright(4000))
    assert load(shared_server, "slow", slow).status == 200
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(invoke, shared_server, "slow", BRIGHT) for _ in range(12)]
        answered = 0
        while not any(future.done() for future in asked):
            answered += invoke(shared_server, "good", GRAY).status == 200
        statuses = {future.result().status for future in asked}
    assert answered > 1 and statuses <= {500, 503}
    assert unload(shared_server, "slow").status == 200


def model_processes(server: Server) -> list[int]:
    """Return the processes of models, oldest first."""
    tasks = Path("/proc").glob("[0-9]*/stat")
    found = []
    for stat in tasks:
        with suppress(OSError):
            pid, _, rest = stat.read_text().partition(" (")
            name, _, numbers = rest.rpartition(") ")
            if name == "model" and ancestor(int(numbers.split()[1])) == server.worker():
                found.append(int(pid))
    return sorted(found)


def ancestor(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
