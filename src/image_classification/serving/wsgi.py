"""Calls a WSGI application (PEP 3333), or its short way, with a whole request.

A process that the application forks, and that returns from there, is not the server and ends here.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from image_classification.serving.http import Answer, Request

_FRAMING = ("content-length", "connection", "transfer-encoding")  # the server sets these

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


def run_application(application: Application, request: Request, peer: Any, server: Any) -> Answer:
    """Answer a whole request.

    Args:
        application: the WSGI application (PEP 3333). Its method `short_way`, if it has one, answers
            some requests without WSGI; None for the others.
        request: the request.
        peer, server: the addresses of the client and of the server, as sockets name them.
    """
    pid = os.getpid()
    short_way = getattr(application, "short_way", None)
    try:
        answer: Answer | None = short_way(request) if short_way is not None else None
        return answer or _run(application, request, peer, server)
    finally:
        if os.getpid() != pid:  # the user's code has forked; its parent answers
            os._exit(0)


def _run(application: Application, request: Request, peer: Any, server: Any) -> Answer:
    head = request.head
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(head.path).decode("latin-1"),
        "QUERY_STRING": head.query,
        "REMOTE_ADDR": peer[0],
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/1.{head.minor_version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in head.headers:
        key = "HTTP_" + name.replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ.pop("HTTP_UPGRADE", None)  # the server ignores it (RFC 9110, 7.8); Werkzeug does not
    environ["CONTENT_LENGTH"] = str(len(request.body))
    started: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[..., Any]:
        started[:] = int(status[:3]), headers
        return written.append

    parts = application(environ, start_response)
    try:
        body = b"".join([*written, *parts])
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()
    status, headers = started
    kept = [(name, value) for name, value in headers if name.lower() not in _FRAMING]
    return Answer(status, kept, body)
