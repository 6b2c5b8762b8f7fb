"""The server process: gunicorn around the application, with settings from the environment.

One worker process owns the model, which is loaded after the fork; its threads decode and run it.
SIGTERM stops listening, lets running requests finish and ends the process (`worker`). The arbiter,
gunicorn's first process, holds the listener and replaces a worker that dies, so that new
connections wait in the backlog instead of being refused.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication

from image_classification import files, logs
from image_classification.artifact import Artifact, open_artifact
from image_classification.contract import environment, failure, process
from image_classification.devices import serving_device
from image_classification.errors import UserError
from image_classification.serving.admission import Plan, choose_plan
from image_classification.serving.arbiter import KILL_SECONDS, Arbiter
from image_classification.serving.observation import Health
from image_classification.serving.request_settings import check_score, check_settings
from image_classification.serving.worker import CANNOT_START

if TYPE_CHECKING:
    from flask import Flask

    from image_classification.serving.metrics import Metrics

_LOCAL = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104
_KEEP_ALIVE_SECONDS = 75  # longer than the platform's client keeps a connection (70 s)


def serve(model: Path, host: str, port: int, form: str = logs.PLAIN) -> None:
    """Serve the artifact in `model` (folder or model.tar.gz) until SIGTERM, SIGINT or SIGQUIT.

    Before the server is ready, these signals end the process with exit code 0. The log has the
    `form`, one of `logs.FORMS`.

    Raises:
        ArtifactError: before a process is started, if the artifact is not usable.
        UserError: a bad setting, a GPU that cannot be used, or an address that cannot be listened
            on.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _stop)  # until gunicorn takes over
    check_settings()
    _check_address(host, port)
    decision = serving_device()  # a GPU that cannot be used ends the server here
    plan = choose_plan(process.cpu_count(), process.memory_limit(), on_gpu=decision.is_gpu)
    _import_ahead()
    if environment.IS_MULTI_MODEL.read_switch():
        _Server(gunicorn_settings(host, port, plan), plan, None, form).run()
        return
    with open_artifact(model) as artifact:
        check_score(artifact)
        _Server(gunicorn_settings(host, port, plan), plan, artifact, form).run()


def _stop(*_: object) -> None:
    """End the process, which answers nobody yet.

    Not sys.exit: Python drops an exception that reaches the callback of an import, for example.
    """
    files.remove_open_folders()
    os._exit(0)


def _import_ahead() -> None:
    """Import before the fork whatever a worker can inherit, so that it is replaced sooner.

    Not ONNX Runtime: a process that inherits it aborts when it ends (a thread it joins is not its
    own).
    """
    from image_classification.serving import app, decoding  # noqa: F401


def _check_address(host: str, port: int) -> None:
    """Raise a UserError if the port is taken; gunicorn would retry for 5 s and give no reason."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another with "
            f"--host and --port, or {environment.HOST.name} and {environment.PORT.name}"
        ) from error


def gunicorn_settings(host: str, port: int, plan: Plan) -> dict[str, Any]:
    """Return gunicorn's settings, by name."""
    return {
        "bind": f"[{host}]:{port}" if ":" in host and "[" not in host else f"{host}:{port}",
        "worker_class": "image_classification.serving.worker.Worker",
        "workers": plan.processes,
        "timeout": environment.STARTUP_TIMEOUT.read_integer(1),
        "graceful_timeout": environment.GRACEFUL_TIMEOUT.read_integer(1) + KILL_SECONDS,
        "keepalive": _KEEP_ALIVE_SECONDS,
        "backlog": 2048,
        "loglevel": "warning",
        "logger_class": "image_classification.serving.arbiter.Log",
        # For a file that gunicorn insists on: works on a read-only root, never waits for a disk.
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108
        "control_socket_disable": True,
    }


def url_of(bind: str) -> str:
    """Return where this machine reaches a server that listens on `host:port`."""
    host, _, port = bind.rpartition(":")
    return f"http://{_LOCAL.get(host, host)}:{port}/"


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn carries no types
    """gunicorn's application.

    Attributes:
        plan: how each process works.
        health: of this process.
        runs_own_code: whether the user's code may answer.
        metrics: of this process once it has loaded its model, where they are switched on.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        plan: Plan,
        artifact: Artifact | None,
        form: str = logs.PLAIN,
    ) -> None:
        self._settings, self._artifact, self._form = settings, artifact, form
        self.plan, self.health = plan, Health()
        self.runs_own_code = artifact is not None and bool(environment.PROGRAM.read())
        self.metrics: Metrics | None = None
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until the arbiter ends this process."""
        Arbiter(self).run()

    def load(self) -> Flask:
        """Load the model and make the application; runs in the worker, after the fork."""
        from image_classification.serving.decoding import open_forkserver

        try:
            forkserver = open_forkserver()  # before any thread, and before ONNX Runtime has its own
            from image_classification.serving import startup

            self.metrics = startup.open_metrics()
            return startup.create_server_app(
                *(self._artifact, self.plan, self.health, self.metrics, forkserver),
                *(self._form, url_of(self._settings["bind"])),
            )
        except Exception as error:
            failure.report_failure(error, None)
            # With any other code gunicorn would start the worker again and again.
            sys.exit(CANNOT_START)
