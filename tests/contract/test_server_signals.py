"""Signals at any moment of a server's life: while it starts, serves and ends."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.contract.jobs import running_server
from tests.contract.raw_http import Client, connected, request
from tests.contract.test_server_end import loaded, lost_in, own_code, statuses
from tests.contract.test_server_faults import BUSY, GRAY, access_log

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def packed(model: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(model, ".")
    return archive


def descendants(process: int) -> set[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return {process}.union(*(descendants(int(child)) for child in children))


def test_signals_until_the_last_moment_leave_the_exit_code_and_no_folder_and_no_process(
    trained_job: Path, tmp_path: Path
) -> None:
    folder, archive = tmp_path / "temporary", packed(trained_job / "model", tmp_path / "m.tar.gz")
    folder.mkdir()
    with running_server(archive, TMPDIR=str(folder)) as server:
        assert server.invoke(GRAY, Content_Type="image/png").status == 200
        processes = descendants(server.process.pid)
        assert len(processes) >= 3  # arbiter, worker, forkserver and its children
        while server.process.poll() is None:
            for number in STOPPING + IGNORED:
                server.process.send_signal(number)
            time.sleep(0.002)
        assert server.process.returncode == 0
        assert not any(Path(f"/proc/{process}").exists() for process in processes)
    assert not list(folder.iterdir())


def start(model: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a server and return as soon as it handles SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    own = {"IMAGE_CLASSIFICATION_MODEL_DIR": str(model), "SAGEMAKER_BIND_TO_PORT": port}
    own |= {"IMAGE_CLASSIFICATION_HOST": "127.0.0.1", "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classification", "serve"],
        env=os.environ | own,
        stderr=subprocess.DEVNULL,
    )
    status = Path(f"/proc/{process.pid}/status")
    while True:
        caught = status.read_text().partition("SigCgt:\t")[2].split()[0]
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            return process
        time.sleep(0.005)


def test_a_signal_during_the_start_ends_the_server_with_code_0_and_leaves_no_folder(
    trained_job: Path, tmp_path: Path
) -> None:
    archive = packed(trained_job / "model", tmp_path / "m.tar.gz")
    for seconds, number in zip((0, 0.1, 0.2, 0.4, 0.7, 1.1), STOPPING * 2, strict=True):
        process = start(archive, tmp_path)
        time.sleep(seconds)
        process.send_signal(number)
        assert process.wait(20) == 0
    assert list(tmp_path.iterdir()) == [archive]


def test_a_closed_terminal_and_signals_that_restart_other_servers_change_nothing(
    trained_job: Path, tmp_path: Path
) -> None:
    process = start(trained_job / "model", tmp_path)
    for _ in range(100):
        for number in IGNORED:
            process.send_signal(number)
        time.sleep(0.01)
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 0
    with loaded(trained_job / "model", 4, tmp_path / "log", BUSY_SECONDS="0.3") as (
        server,
        clients,
    ):
        processes = descendants(server.process.pid)
        for number in IGNORED:
            for process_id in processes:
                os.kill(process_id, number)
        assert statuses(clients) == {200: 4}
        assert descendants(server.process.pid) >= processes


def pipelined(server: object, count: int) -> Client:
    """A client that has sent requests and shut down its sending side."""
    client = Client(server)  # type: ignore[arg-type]
    client.send(request(BUSY) * count)
    client.socket.shutdown(socket.SHUT_WR)
    return client


def test_sigterm_answers_pipelined_requests_that_have_arrived(
    trained_job: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with loaded(trained_job / "model", 0, log, BUSY_SECONDS="0.2") as (server, _):
        clients = [pipelined(server, 3) for _ in range(4)]
        assert server.get("/ping").status == 200
        server.process.terminate()
        found = Counter(client.answer().status for client in clients for _ in range(3))
        assert found == {200: 12}
        assert server.process.wait(30) == 0
        for client in clients:
            client.close()
    assert lost_in(log) == 0


def test_pipelined_requests_of_callers_who_have_left_are_not_lost(
    trained_job: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with loaded(trained_job / "model", 0, log, BUSY_SECONDS="0.4") as (server, _):
        for _ in range(6):
            with connected(server) as client:
                client.send(request(BUSY) * 3)
                time.sleep(0.15)
        server.process.terminate()
        assert server.process.wait(30) == 0
    assert lost_in(log) == 0
    assert 499 in {line["status"] for line in access_log(log)}


def test_sigterm_while_archives_unpack_leaves_no_folder(tmp_path: Path) -> None:
    folder, archive = tmp_path / "temporary", tmp_path / "many.tar.gz"
    folder.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for number in range(9_900):
            tar.addfile(tarfile.TarInfo(f"folder-{number % 100}/{number}"), io.BytesIO())
    own = {"SAGEMAKER_MULTI_MODEL": "true", "TMPDIR": str(folder)}
    with running_server(tmp_path, IMAGE_CLASSIFICATION_GRACEFUL_TIMEOUT="1", **own) as server:

        def load(name: str) -> None:
            with pytest.raises(OSError):  # perhaps: the server ends meanwhile
                body = f'{{"model_name": "{name}", "url": "{archive}"}}'.encode()
                server.send("POST", "/models", body)
                raise ConnectionError

        threads = [threading.Thread(target=load, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        while not list(folder.iterdir()):
            time.sleep(0.01)
        server.process.terminate()
        assert server.process.wait(30) == 0
        for thread in threads:
            thread.join()
    assert not list(folder.iterdir())


def test_threads_and_exit_handlers_of_own_code_do_not_delay_the_end(
    trained_job: Path, tmp_path: Path
) -> None:
    model, log = tmp_path / "model", tmp_path / "log"
    shutil.copytree(trained_job / "model", model)
    (model / "code").mkdir()
    (model / "code" / "inference.py").write_text(
        "import atexit, threading, time\n\n\n"
        "def transform_fn(model, body, content_type, accept):\n"
        "    atexit.register(time.sleep, 3600)\n"
        "    threading.Thread(target=time.sleep, args=(3600,)).start()\n"
        "    print('the last word', end='')\n"
        "    return 'well', accept\n"
    )
    with own_code(model, log) as server:
        worker = server.worker()
        assert server.invoke(b"x").body == b"well"
        server.process.terminate()
        assert server.process.wait(30) == 0
    assert "the last word" in log.read_text()
    assert f"Worker (pid:{worker}) was sent SIGKILL" not in log.read_text()
