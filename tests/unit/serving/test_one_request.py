"""The modules that one request runs through are those that docs/architecture.md lists, in order."""

from __future__ import annotations

import http.client
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import image_classification
from image_classification.artifact import open_artifact
from image_classification.serving import scheduling, server, startup
from image_classification.serving import worker as serving_worker
from image_classification.serving.admission import choose_plan
from image_classification.serving.observation import Health
from image_classification.serving.worker import Worker

ROOT = Path(__file__).parents[3]
PACKAGE = Path(image_classification.__file__).parent
ARTIFACT = ROOT / "tests" / "golden" / "artifacts" / "torch.tar.gz"

MOST_MODULES = 21
LOOP = {"serving/worker.py", "serving/connection.py", "serving/observation.py"}
LOOP |= {"serving/account.py", "serving/scheduling.py", "serving/log_output.py"}


class Recorder:
    """Notes the package's files whose functions are called, in order of first use."""

    def __init__(self) -> None:
        self.modules: list[str] = []
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if self.is_on and event == "call":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(PACKAGE):
                name = path.relative_to(PACKAGE).as_posix()
                if name not in self.modules:
                    self.modules.append(name)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    made = Recorder()
    threading.setprofile(made)

    def start_profiled(target: Callable[[], None], _: tuple[()]) -> None:
        threading.Thread(target=target, daemon=True).start()

    monkeypatch.setattr(scheduling, "start_new_thread", start_profiled)
    yield made
    threading.setprofile(None)


class Application:
    """gunicorn's application, as far as a worker uses it."""

    metrics, runs_own_code = None, False

    def __init__(self) -> None:
        self.plan, self.health = choose_plan(2, 2**32), Health()


def listed_in_the_docs() -> list[str]:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = page.partition("## One request\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| \d+ \| `([^`]+)` \|", section, re.MULTILINE)


def test_one_request_runs_through_the_modules_that_the_docs_list(
    recorder: Recorder, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_worker, "end_process", lambda _: None)  # it is pytest's
    application, listener = Application(), socket.create_server(("127.0.0.1", 0))
    gunicorn = server._Server(
        server.gunicorn_settings("127.0.0.1", 0, application.plan), application.plan, None
    )
    worker = Worker(0, os.getppid(), [listener], application, 30, gunicorn.cfg, None)
    worker.PIPE = os.pipe()
    with open_artifact(ARTIFACT) as artifact:
        worker.wsgi = startup.create_server_app(artifact, application.plan, application.health)
        loop = threading.Thread(target=worker.run)
        loop.start()
        clients = []
        for recorder.is_on in (False, True):  # the first request fills caches
            clients.append(http.client.HTTPConnection(*listener.getsockname()))
            headers = {"Content-Type": "image/jpeg", "Accept": "application/json;verbose"}
            clients[-1].request("POST", "/invocations", jpeg, headers)
            response = clients[-1].getresponse()
            assert response.status == 200 and b"predicted_label" in response.read()
        recorder.is_on = False
        for client in clients:
            client.close()
        worker.alive = False
        loop.join()
    worker.tmp.close()
    for end in worker.PIPE:
        os.close(end)
    listed = listed_in_the_docs()
    assert set(recorder.modules) == set(listed)
    assert len(listed) == len(set(listed)) <= MOST_MODULES
    # These modules also run between requests, so their turn depends on the moment.
    assert [m for m in recorder.modules if m not in LOOP] == [m for m in listed if m not in LOOP]
