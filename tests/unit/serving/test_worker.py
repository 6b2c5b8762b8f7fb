"""The worker: the names of gunicorn it relies on, and how it calls the application."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker as GunicornWorker

from image_classification.serving import worker
from image_classification.serving.http import RequestReader
from image_classification.serving.observation import RequestRecord
from image_classification.serving.refusals import refusal
from image_classification.serving.wsgi import run_application

ROOMS = ("arbiter.py", "worker.py")


@pytest.fixture
def made() -> Iterator[GunicornWorker]:
    """A worker as gunicorn's arbiter makes it."""
    worker = GunicornWorker(1, 2, ["listener"], "application", 3, Config(), None)
    yield worker
    worker.tmp.close()


@pytest.mark.parametrize(
    "name",
    [
        *("PIPE", "alive", "app", "booted", "cfg", "handle_abort", "handle_exit", "handle_quit"),
        *("init_process", "init_signals", "tmp"),
        *("pid", "ppid", "run", "sockets"),
    ],
)
def test_gunicorns_worker_has_what_ours_uses(made: GunicornWorker, name: str) -> None:
    assert hasattr(made, name)


def test_gunicorns_worker_calls_ours_with_its_own_state(made: GunicornWorker) -> None:
    assert (made.ppid, made.sockets, made.app) == (2, ["listener"], "application")
    assert made.alive is True
    made.handle_exit(15, None)  # SIGTERM
    assert made.alive is False


def test_gunicorn_loads_the_application_into_the_worker_before_it_runs_it(
    made: GunicornWorker,
) -> None:
    class Application:
        def wsgi(self) -> str:
            return "loaded"

    made.app = Application()
    made.load_wsgi()
    assert made.wsgi == "loaded"


def test_gunicorns_arbiter_has_what_ends_the_server() -> None:
    assert worker.CANNOT_START == Arbiter.WORKER_BOOT_ERROR == 3
    assert Arbiter.LISTENERS == []
    assert HaltServer("reason", 1).exit_status == 1
    assert Config().graceful_timeout and Config().keepalive
    names = ["halt", "murder_workers", "reap_workers", "run", "spawn_worker", "stop", "WORKERS"]
    names += ["init_signals", "SIGNALS"]
    assert all(hasattr(Arbiter, name) for name in names)


def test_no_other_file_uses_what_gunicorn_does_not_document() -> None:
    for path in Path(worker.__file__).parent.rglob("*.py"):
        names = {
            node.module
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gunicorn")
        }
        assert names <= {"gunicorn.app.base"} or path.name in ROOMS, f"{path}: {names}"


def call(text: bytes, application: Callable[..., Iterable[bytes]]) -> tuple[dict[str, Any], Any]:
    """What the application is called with, and the answer."""
    seen: dict[str, Any] = {}

    def observed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ, body=environ["wsgi.input"].read())
        return application(environ, start_response)

    request = RequestReader(1000).take(text)
    assert request is not None
    return seen, run_application(observed, request, ("9.9.9.9", 1), ("127.0.0.1", 8080))


def test_the_application_is_called_by_wsgi_with_the_whole_request() -> None:
    def application(_: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response("201 Created", [("A", "b"), ("Content-Length", "9")])
        write(b"first ")
        return [b"second", b" third"]

    seen, answer = call(
        b"POST /a%20%C3%A4?b=%20 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\nContent-Type: c\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n",
        application,
    )
    assert seen["REQUEST_METHOD"] == "POST" and seen["QUERY_STRING"] == "b=%20"
    assert seen["PATH_INFO"].encode("latin-1").decode() == "/a ä"
    assert seen["HTTP_X_A"] == "1,2" and seen["HTTP_HOST"] == "x"
    assert (seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"], seen["body"]) == ("c", "3", b"xyz")
    assert "HTTP_TRANSFER_ENCODING" not in seen and "HTTP_CONTENT_TYPE" not in seen
    assert (answer.status, answer.body) == (201, b"first second third")
    assert list(answer.headers) == [("A", "b")]


def test_an_iterable_that_can_be_closed_is_closed_even_if_it_fails() -> None:
    class Parts:
        is_closed = False

        def __iter__(self) -> Iterable[bytes]:
            raise ValueError("it broke")

        def close(self) -> None:
            self.is_closed = True

    parts = Parts()
    with pytest.raises(ValueError, match="it broke"):
        call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", lambda *_: parts)  # type: ignore[arg-type,return-value]
    assert parts.is_closed


def test_only_the_parent_answers_when_the_users_code_has_forked() -> None:
    def application(_: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        child = os.fork()
        start_response("200 OK", [])
        return [str(child).encode()]

    _, answer = call(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", application)
    child, status = os.waitpid(int(answer.body), 0)
    assert child and status == 0  # a child that went on would run these tests too


def test_a_reason_that_utf_8_cannot_hold_is_escaped() -> None:
    assert (
        refusal(500, "of your code: \ud800 ä").body
        == '{"error": "of your code: \\\\ud800 ä"}'.encode()
    )


def test_an_exit_that_reaches_a_thread_after_the_users_code_is_a_500_of_its_request() -> None:
    def application(*_: Any) -> Iterable[bytes]:
        raise SystemExit  # as a timeout that a package raises in the thread from outside

    started = worker.Worker.__new__(worker.Worker)
    started.wsgi = application
    asked = RequestReader(9).take(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    connection: Any = SimpleNamespace(peer=("9.9.9.9", 1), server=("127.0.0.1", 80))
    assert asked is not None
    answer = started._answer(connection, asked, RequestRecord("GET", "/"))
    assert answer.status == 500 and b"internal error" in answer.body
