"""Overload, termination, killed processes and broken devices: which client gets which answer."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.contract.jobs import Answer, Server, running_server
from tests.contract.raw_http import Client, connected, request

FAULTY = "tests.contract.faulty_server"
PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


def one_color(value: int, size: int = 40) -> bytes:
    body = io.BytesIO()
    # A plain JPEG, which is decoded in the process whose device fails.
    Image.new("RGB", (size, size), (value, value, value)).save(body, "JPEG", quality=95)
    return body.getvalue()


BUSY, GRAY, BREAK = one_color(0), one_color(128), one_color(255)
ENDLESS = one_color(128, size=41)


@contextmanager
def faulty(model: Path, **settings: Any) -> Iterator[Server]:
    one_thread = {"SAGEMAKER_GUNICORN_THREADS": "1"}
    with running_server(model, program=FAULTY, **(one_thread | settings)) as server:
        yield server


def access_log(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"time"')]


def test_clients_beyond_the_queue_get_503_before_the_waiting_ones_are_answered(
    trained_job: Path,
) -> None:
    settings = {"SAGEMAKER_MODEL_JOB_QUEUE_SIZE": "2", "BUSY_SECONDS": "2"}
    finished: list[tuple[int, Answer]] = []
    with faulty(trained_job / "model", **settings) as server, ExitStack() as stack:
        clients = [stack.enter_context(connected(server)) for _ in range(8)]

        def collect(number: int) -> None:
            finished.append((number, clients[number].answer()))

        threads = [threading.Thread(target=collect, args=(number,)) for number in range(8)]
        for client, thread in zip(clients, threads, strict=True):
            client.send(request(BUSY))
            thread.start()
        for thread in threads:
            thread.join()
        statuses = [answer.status for _, answer in finished]
        assert statuses == [503] * 5 + [200] * 3
        refused = finished[0][1]
        assert refused.headers["Retry-After"] == "1"
        assert "waiting" in json.loads(refused.body)["error"]
        clients[finished[0][0]].send(request(GRAY))
        assert clients[finished[0][0]].answer().status == 200


def test_a_full_queue_refuses_a_head_alone_and_still_answers_pings(
    trained_job: Path, tmp_path: Path
) -> None:
    settings = {"SAGEMAKER_MODEL_JOB_QUEUE_SIZE": "1", "BUSY_SECONDS": "3"}
    log = tmp_path / "log"
    named = "X-Amzn-SageMaker-Inference-Id: refused\r\nExpect: 100-continue\r\n"
    with faulty(trained_job / "model", log=log, **settings) as server, ExitStack() as stack:
        taken = [stack.enter_context(connected(server)) for _ in range(2)]
        for client in taken:
            client.send(request(BUSY))
        assert server.get("/ping").status == 200  # by now both are in the queue
        refused = [stack.enter_context(connected(server)) for _ in range(40)]
        for client in refused:
            client.send(request(length=1_000_000, lines=named))
        for client in refused:
            answer = client.answer()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1"), answer
            assert answer.headers["Connection"] == "close"
            client.send(b"\0" * 1_000_000)  # who sends it all the same is not cut off
            assert client.is_closed()
        assert server.get("/ping").status == 200
        taken[0].socket.setblocking(False)
        with pytest.raises(BlockingIOError):  # all of that came before the first answer
            taken[0].socket.recv(1)
        taken[0].socket.settimeout(30)
        assert [client.answer().status for client in taken] == [200, 200]
    lines = [line for line in access_log(log) if line["id"] == "refused"]
    assert [line["status"] for line in lines] == [503] * 40


def test_a_ping_is_answered_while_every_thread_works_and_requests_are_half_sent(
    trained_job: Path,
) -> None:
    with faulty(trained_job / "model", BUSY_SECONDS="3") as server, ExitStack() as stack:
        half_open = [stack.enter_context(connected(server)) for _ in range(40)]
        for client in half_open:
            client.send(request(b"x", length=1000))
        worker = stack.enter_context(connected(server))
        waiting = stack.enter_context(connected(server))
        worker.send(request(BUSY))
        waiting.send(request(GRAY))
        assert server.get("/ping").status == 200
        worker.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            worker.socket.recv(1)
        worker.socket.settimeout(30)
        assert worker.answer().status == waiting.answer().status == 200


def test_the_request_of_a_disconnected_client_is_not_computed(
    trained_job: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with faulty(trained_job / "model", log=log) as server:
        with connected(server) as first, connected(server) as last:
            first.send(request(BUSY))
            gone = Client(server)
            gone.send(request(GRAY, lines="X-Amzn-SageMaker-Inference-Id: gone\r\n"))
            time.sleep(0.2)
            gone.close()
            last.send(request(GRAY))
            assert first.answer().status == last.answer().status == 200
    (line,) = [line for line in access_log(log) if line["id"] == "gone"]
    assert line["status"] == 499 and line["images"] == 0 and line["compute_ms"] == 0


def test_a_request_that_waited_too_long_is_503_and_not_computed(
    trained_job: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    settings = {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "2", "BUSY_SECONDS": "1.5"}
    with faulty(trained_job / "model", log=log, **settings) as server, ExitStack() as stack:
        clients = [stack.enter_context(connected(server)) for _ in range(3)]
        for client in clients:
            client.send(request(BUSY))
        answers = [client.answer() for client in clients]
    assert sorted(answer.status for answer in answers) == [200, 200, 503]  # read in any order
    assert ["Retry-After" in a.headers for a in answers] == [a.status == 503 for a in answers]
    assert [line["images"] for line in access_log(log)] == [1, 1, 0]


def test_sigterm_under_load_loses_no_request_that_was_sent(trained_job: Path) -> None:
    answers: list[int] = []

    def ask_until_told_to_stop(server: Server) -> None:
        with connected(server) as client:
            while True:
                client.send(request(GRAY))
                answer = client.answer()
                answers.append(answer.status)
                if answer.status != 200 or answer.headers["Connection"] == "close":
                    return

    with running_server(trained_job / "model") as server:
        threads = [
            threading.Thread(target=ask_until_told_to_stop, args=(server,)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1)
        server.process.terminate()
        for thread in threads:
            thread.join()
        assert server.process.wait(30) == 0
    assert set(answers) == {200} and len(answers) > 8


def test_sigterm_answers_the_queue_and_closes_idle_connections(
    trained_job: Path,
) -> None:
    with faulty(trained_job / "model") as server, ExitStack() as stack:
        idle = stack.enter_context(connected(server))
        idle.send(PING)
        assert idle.answer().status == 200
        clients = [stack.enter_context(connected(server)) for _ in range(4)]
        for client in clients:
            client.send(request(BUSY))
        late = stack.enter_context(connected(server))
        server.process.terminate()
        late.send(request(GRAY))
        answers = [client.answer() for client in [*clients, late]]
        assert [answer.status for answer in answers] == [200] * 5
        assert {answer.headers["Connection"] for answer in answers[2:]} == {"close"}
        assert idle.is_closed()


def test_a_killed_process_is_replaced_at_once_and_loses_only_its_own_requests(
    trained_job: Path, tmp_path: Path
) -> None:
    answers: list[int] = []
    stop = threading.Event()

    def ask(server: Server) -> None:
        while not stop.is_set():
            with connected(server) as client:
                client.send(request(GRAY))
                try:
                    answers.append(client.answer().status)
                except ConnectionResetError:
                    answers.append(0)

    log = tmp_path / "log"
    with running_server(trained_job / "model", log=log) as server:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        killed = server.worker()
        os.kill(killed, signal.SIGKILL)
        time.sleep(2)
        stop.set()
        for thread in threads:
            thread.join()
        assert server.worker() != killed
    lost = answers.count(0)
    assert set(answers) <= {200, 0} and lost <= 8
    assert answers[-8:] == [200] * 8
    if lost:
        assert f"process {killed} ended with" in log.read_text()


def answer_of_the_next(server: Server, body: bytes = GRAY) -> Answer:
    """Send an image until it is answered: a process on its way to its end asks for that."""
    answer = server.invoke(body, Content_Type="image/jpeg")
    while answer.status == 503 and b"being replaced" in answer.body:
        time.sleep(0.05)
        answer = server.invoke(body, Content_Type="image/jpeg")
    return answer


def test_a_broken_device_ends_the_process_and_the_next_one_answers(
    trained_job: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with faulty(trained_job / "model", log=log) as server:
        broken = server.worker()
        assert server.invoke(BREAK, Content_Type="image/jpeg").status == 500
        assert answer_of_the_next(server).status == 200
        assert server.get("/ping").status == 200
        assert server.worker() != broken
    assert "illegal memory access" in log.read_text()


def test_a_server_whose_processes_keep_dying_ends(trained_job: Path) -> None:
    with running_server(trained_job / "model", program=FAULTY, exit_code=1) as server:
        for _ in range(5):
            assert answer_of_the_next(server, BREAK).status == 500
        assert server.process.wait(120) == 1


def test_a_lost_gpu_makes_pings_unhealthy_and_ends_the_server(
    trained_job: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    settings = {"FAKE_CUDA": "1", "SAGEMAKER_GUNICORN_THREADS": "2", "BUSY_SECONDS": "2"}
    model = trained_job / "model"
    with running_server(model, program=FAULTY, log=log, exit_code=3, **settings) as server:
        with connected(server) as busy:
            busy.send(request(BUSY))
            assert server.invoke(BREAK, Content_Type="image/jpeg").status == 500
            assert server.get("/ping").status == 503
            refused = server.invoke(GRAY, Content_Type="image/jpeg")
            while refused.status == 200:  # the process was still on its way to its end
                refused = server.invoke(GRAY, Content_Type="image/jpeg")
            assert refused.status == 503 and b"being replaced" in refused.body
            assert busy.answer().status == 200
        assert server.process.wait(30) == 3


def test_a_run_of_the_model_or_of_the_decoder_that_hangs_is_a_500_and_ends_its_process(
    trained_job: Path,
) -> None:
    settings = {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "1", "BUSY_SECONDS": "3600"}
    with faulty(trained_job / "model", **settings) as server:
        for body, name in ((BUSY, b"the model"), (ENDLESS, b"the decoder of images")):
            hanging = server.worker()
            with connected(server) as client:
                client.send(request(body))
                answer = client.answer()
                assert answer.status == 500 and answer.headers["Connection"] == "close"
                assert name + b" did not return within 1 s" in answer.body and client.is_closed()
            assert answer_of_the_next(server).status == 200
            assert server.worker() != hanging
