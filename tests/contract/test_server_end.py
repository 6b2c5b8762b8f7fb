"""Whatever ends a server process: each accepted request is answered, or counted and logged."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.contract.jobs import Server, running_server
from tests.contract.raw_http import Client, connected, request
from tests.contract.test_server_faults import BUSY, FAULTY, GRAY, access_log

HANG = {"BUSY_SECONDS": "3600"}
LAST_CALL = {"IMAGE_CLASSIFICATION_GRACEFUL_TIMEOUT": "2"}


@contextmanager
def loaded(
    model: Path, callers: int, log: Path, exit_code: int = 0, threads: int = 2, **settings: str
) -> Iterator[tuple[Server, list[Client]]]:
    """A server that has read a request of each caller and works on them."""
    given = {"SAGEMAKER_GUNICORN_THREADS": str(threads), "IMAGE_CLASSIFICATION_METRICS": "true"}
    given |= settings
    with (
        running_server(model, program=FAULTY, log=log, exit_code=exit_code, **given) as server,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(connected(server)) for _ in range(callers)]
        for number, client in enumerate(clients):
            client.send(request(BUSY, lines=f"X-Amzn-SageMaker-Inference-Id: caller-{number}\r\n"))
        while taken(server) < callers:
            time.sleep(0.01)
        yield server, clients


def taken(server: Server) -> int:
    """Return how many invocations, of an image each, the server has accepted so far."""
    text = server.get("/metrics").body.decode()
    names = "images_total|requests_in_flight"
    numbers = re.findall(rf"^image_classification_(?:{names}) (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, numbers)))


def statuses(clients: list[Client]) -> Counter[int]:
    """Count the answers by status; 0 for callers without one."""
    found: Counter[int] = Counter()
    for client in clients:
        try:
            found[client.answer().status] += 1
        except ConnectionResetError:
            found[0] += 1
    return found


def lost_in(log: Path) -> int:
    """The requests that the log calls lost with their processes."""
    return sum(map(int, re.findall(r"ended with (\d+) unanswered requests", log.read_text())))


@pytest.mark.parametrize("callers", [12, 60])
def test_sigterm_answers_each_caller_although_the_work_outlasts_its_time(
    trained_job: Path, tmp_path: Path, callers: int
) -> None:
    log, model = tmp_path / "log", trained_job / "model"
    settings = LAST_CALL | {"BUSY_SECONDS": "0.6"}
    with loaded(model, callers, log, **settings) as (server, clients):
        server.process.terminate()
        answers = [client.answer() for client in clients]
        found = Counter(answer.status for answer in answers)
        assert found.keys() == {200, 503} and found.total() == callers
        refused = [answer for answer in answers if answer.status == 503]
        assert all(b"the server is stopping" in answer.body for answer in refused)
        assert {answer.headers["Connection"] for answer in refused} == {"close"}
        assert server.process.wait(30) == 0
    logged = {line["id"]: line["status"] for line in access_log(log)}
    assert Counter(logged.values()) == found and lost_in(log) == 0


def test_sigterm_answers_for_threads_that_hang_and_for_requests_that_arrived_in_part(
    trained_job: Path, tmp_path: Path
) -> None:
    log, model = tmp_path / "log", trained_job / "model"
    with loaded(model, 3, log, **LAST_CALL, **HANG) as (server, clients):
        partial, head = Client(server), Client(server)
        partial.send(request(b"x", length=1000))
        head.send(b"POST /invocations HT")
        assert server.get("/ping").status == 200
        server.process.terminate()
        time.sleep(0.3)
        server.process.terminate()  # a second one changes nothing
        assert statuses([*clients, partial, head]) == {503: 5}
        assert server.process.wait(30) == 0
        partial.close()
        head.close()
    assert sum(line["status"] == 503 for line in access_log(log)) == 5
    assert "2 requests still ran when the process ended" in log.read_text()


def test_an_urgent_signal_answers_everybody_at_once(trained_job: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with loaded(trained_job / "model", 8, log, **HANG) as (server, clients):
        begin = time.monotonic()
        server.process.terminate()
        server.process.send_signal(signal.SIGINT)
        assert statuses(clients) == {503: 8}
        assert server.process.wait(30) == 0
        assert time.monotonic() - begin < 15  # not the 25 s of SIGTERM
    assert lost_in(log) == 0


def test_what_a_killed_process_has_accepted_is_answered_or_logged_as_lost(
    trained_job: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with loaded(trained_job / "model", 30, log, BUSY_SECONDS="0.3") as (server, clients):
        with connected(server) as partial:
            partial.send(request(b"x", length=1000))
            assert server.get("/ping").status == 200
            first = clients[0].answer().status
            os.kill(server.worker(), signal.SIGKILL)
            found = statuses([*clients[1:], partial])
        found[first] += 1
        assert server.invoke(GRAY, Content_Type="image/png").status == 200
    assert found.keys() == {200, 0} and found.total() == 31
    assert lost_in(log) == found[0] > 0  # a busy machine kills late
    assert "1 of them incomplete" in log.read_text()


def test_requests_lost_while_the_server_stops_make_its_exit_code_1(
    trained_job: Path, tmp_path: Path
) -> None:
    log, model = tmp_path / "log", trained_job / "model"
    with loaded(model, 6, log, exit_code=1, **HANG) as (server, clients):
        worker = server.worker()
        os.kill(worker, signal.SIGSTOP)  # so that it cannot answer in time
        server.process.terminate()
        time.sleep(0.3)
        os.kill(worker, signal.SIGKILL)
        assert statuses(clients) == {0: 6}
        assert server.process.wait(30) == 1
    assert lost_in(log) == 6
    assert "6 accepted requests were lost while the server ended" in log.read_text()


def test_a_process_whose_arbiter_is_killed_answers_and_ends(
    trained_job: Path, tmp_path: Path
) -> None:
    log, model = tmp_path / "log", trained_job / "model"
    with loaded(model, 6, log, exit_code=-9, BUSY_SECONDS="0.3") as (server, clients):
        worker = server.worker()
        server.process.kill()
        assert statuses(clients) == {200: 6}
        await_end(worker)
    assert lost_in(log) == 0


def await_end(process: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{process}").exists()


def test_a_stopped_process_is_replaced_and_its_requests_are_logged_as_lost(
    trained_job: Path, tmp_path: Path
) -> None:
    log, model = tmp_path / "log", trained_job / "model"
    settings = {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "1", "BUSY_SECONDS": "0.9"}
    with loaded(model, 3, log, **settings) as (server, clients):
        worker = server.worker()
        os.kill(worker, signal.SIGSTOP)
        assert statuses(clients) == {0: 3}
        assert server.invoke(GRAY, Content_Type="image/png").status == 200
        assert server.worker() != worker
    assert lost_in(log) == 3
    assert f"process {worker} has given no sign of life" in log.read_text()


NEVER_RETURNS = {
    b"sleep": "time.sleep(10**6)",
    b"spin": "while True: pass",
    b"hold the lock": "print('holding', flush=True); re.match(r'(a+)+$', 'a' * 60 + 'b')",
}
ENDS_ITS_PROCESS = {
    b"kill": "os.kill(os.getpid(), signal.SIGKILL); time.sleep(9)",
    b"crash": "ctypes.string_at(0)",
    b"exit": "os._exit(0)",
}
ENDS_AS_IF_IT_COULD_NOT_START = {b"exit 3": "os._exit(3)", b"exit 4": "os._exit(4)"}


@pytest.fixture
def model(trained_job: Path, tmp_path: Path) -> Path:
    """The artifact with a handler that does what the body of the request names."""
    model = tmp_path / "model"
    shutil.copytree(trained_job / "model", model)
    (model / "code").mkdir()
    statements = NEVER_RETURNS | ENDS_ITS_PROCESS | ENDS_AS_IF_IT_COULD_NOT_START
    statements |= {b"wait": "time.sleep(1.6)"}
    branches = (f"    if body == {body!r}:\n        {what}\n" for body, what in statements.items())
    (model / "code" / "inference.py").write_text(
        "import ctypes, os, re, signal, time\n\n\n"
        "def transform_fn(model, body, content_type, accept):\n"
        + "".join(branches)
        + "    return 'well', accept\n"
    )
    return model


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        (NEVER_RETURNS, b"code/inference.py did not return within 1 s"),
        (ENDS_ITS_PROCESS, b"the process ended before code/inference.py returned"),
        (ENDS_AS_IF_IT_COULD_NOT_START, b"the process ended before code/inference.py returned"),
    ],
    ids=["never", "ends", "ends as if it could not start"],
)
def test_the_caller_of_a_handler_that_never_returns_gets_a_500_and_its_process_is_replaced(
    model: Path, tmp_path: Path, bodies: dict[bytes, str], reason: bytes
) -> None:
    log = tmp_path / "log"
    with own_code(model, log, SAGEMAKER_MODEL_SERVER_TIMEOUT="1") as server:
        for body in bodies:
            hanging = server.worker()
            with connected(server) as client:
                client.send(request(body, lines=f"X-Amzn-SageMaker-Inference-Id: {hanging}\r\n"))
                answer = client.answer()
                assert answer.status == 500 and reason in answer.body, (body, answer)
                assert answer.headers["Connection"] == "close"
                assert client.is_closed()  # nothing follows the answer
            assert server.invoke(b"well").body == b"well"
            assert server.worker() != hanging
            assert str(hanging) in log.read_text()
    assert lost_in(log) == 0


@contextmanager
def own_code(model: Path, log: Path, **settings: str) -> Iterator[Server]:
    pytest.importorskip("sagemaker_inference")
    given = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_GUNICORN_THREADS": "2"}
    with running_server(model, log=log, **given, **settings) as server:
        yield server


def test_sigterm_answers_all_callers_although_a_handler_holds_the_lock(
    model: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with (
        own_code(model, log, IMAGE_CLASSIFICATION_GRACEFUL_TIMEOUT="3") as server,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(connected(server)) for _ in range(2)]
        for client, body in zip(clients, (b"wait", b"hold the lock"), strict=True):
            client.send(request(body))
        while "holding" not in log.read_text():
            time.sleep(0.05)
        time.sleep(0.2)
        clients += [stack.enter_context(connected(server)) for _ in range(3)]
        for client in clients[2:]:
            client.send(request(b"well"))  # nobody will read it
        server.process.terminate()
        assert statuses(clients) == {503: 5}
        assert server.process.wait(30) == 0
    assert lost_in(log) == 0


def test_a_request_next_to_a_handler_that_hangs_has_time_to_be_answered(
    model: Path, tmp_path: Path
) -> None:
    with (
        own_code(model, tmp_path / "log", SAGEMAKER_MODEL_SERVER_TIMEOUT="2") as server,
        connected(server) as hanging,
        connected(server) as slow,
        connected(server) as queued,
    ):
        hanging.send(request(b"sleep"))
        time.sleep(1.2)
        slow.send(request(b"wait"))  # when the first one is overdue, it has run for 1 s of 2
        queued.send(request(b"wait"))
        assert hanging.answer().status == 500
        assert [slow.answer().body, queued.answer().status] == [b"well", 503]


def test_the_unpacked_model_of_a_killed_server_is_removed_by_the_next_one(
    trained_job: Path, tmp_path: Path
) -> None:
    archive, folder = tmp_path / "model.tar.gz", tmp_path / "temporary"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(trained_job / "model", ".")
    folder.mkdir()
    own = {"TMPDIR": str(folder)}
    with running_server(archive, exit_code=-9, **own) as killed:
        (left,) = folder.iterdir()
        with running_server(archive, **own):
            assert left.exists()  # it is in use
        worker = killed.worker()
        os.kill(worker, signal.SIGTERM)
        await_end(worker)
        assert killed.invoke(GRAY, Content_Type="image/png").status == 200
        assert left.exists()  # not removed by the process that ended
        worker = killed.worker()
        killed.process.kill()
        os.kill(worker, signal.SIGKILL)
        await_end(worker)
    assert left.exists()
    with running_server(archive, **own):
        assert len(list(folder.iterdir())) == 1 and not left.exists()
    assert not list(folder.iterdir())
