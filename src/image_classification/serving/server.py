"""The server process: gunicorn around the application, with settings from the environment.

One worker process owns the model; its threads decode, prepare and run (`scheduling`). The model is
loaded after the fork. SIGTERM stops listening, lets running requests finish and ends the process
(`worker`). The arbiter, gunicorn's first process, holds the listener and starts a worker anew that
dies, so that callers who come meanwhile wait instead of being refused.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from socket import SOCK_STREAM
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from image_classification.artifact import Artifact, open_artifact
from image_classification.contract.environment import (
    ACCESS_LOG,
    BATCH_PLACEHOLDER,
    HOST,
    IS_BATCH,
    IS_MULTI_MODEL,
    MAX_PIXELS,
    METRICS,
    MODEL_MEMORY,
    PAGE,
    PORT,
    READ_TIMEOUT,
    STARTUP_TIMEOUT,
)
from image_classification.contract.failure import report_failure
from image_classification.contract.process import cpu_count
from image_classification.errors import UserError
from image_classification.serving import memory
from image_classification.serving.admission import Plan, choose_plan
from image_classification.serving.app import execution_parameters
from image_classification.serving.health import Health
from image_classification.serving.settings import read_settings
from image_classification.serving.worker import Worker

if TYPE_CHECKING:
    from flask import Flask


GRACEFUL_SECONDS = 25
"""SageMaker kills 30 s after SIGTERM."""

_MOST_DEATHS = 5  # within a minute: then the platform shall start the container anew
_DEATHS_SECONDS = 60.0
_deaths: list[float] = []  # when (monotonic) workers died; in the arbiter

_KEEP_ALIVE_SECONDS = 75  # longer than the platform's client keeps a connection (70 s)


def serve(model: Path, host: str, port: int) -> None:
    """Serve the artifact in `model` (folder or model.tar.gz) until SIGTERM or SIGINT.

    Raises:
        ArtifactError: before a process is started, if the artifact is not usable.
        UserError: a bad setting, or an address that cannot be listened on.
    """
    # gunicorn takes over later; until then the container's first process would ignore the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _check_settings()
    _check_address(host, port)
    plan = choose_plan(cpu_count(), memory.limit())
    _import_ahead()
    if IS_MULTI_MODEL.read_switch():
        _Server(settings(host, port, plan), plan, None).run()
        return
    with open_artifact(model) as artifact:
        _Server(settings(host, port, plan), plan, artifact).run()


def _import_ahead() -> None:
    """Import before the fork what a worker needs and may inherit, so that it is replaced sooner.

    Not ONNX Runtime: a process that inherits it aborts when it ends (a thread it joins is not its
    own).
    """
    import flask  # noqa: F401


def _check_settings() -> None:
    """Find a bad setting here, where it ends the command, and not in a worker."""
    MAX_PIXELS.read_integer(1)
    READ_TIMEOUT.read_integer(1)
    STARTUP_TIMEOUT.read_integer(1)
    MODEL_MEMORY.read_integer(0)
    for switch in (ACCESS_LOG, METRICS, PAGE):
        switch.read_switch()
    for switch in (IS_BATCH, BATCH_PLACEHOLDER, IS_MULTI_MODEL):
        switch.read_switch()
    execution_parameters(read_settings().max_content_length)


def _check_address(host: str, port: int) -> None:
    """Find a port that is taken here; gunicorn would try for five seconds and then not say why."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=SOCK_STREAM)[0]
        with socket.socket(kind, SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another with "
            f"--host and --port, or {HOST.name} and {PORT.name}"
        ) from error


def settings(host: str, port: int, plan: Plan) -> dict[str, Any]:
    """Gunicorn's settings."""
    return {
        "bind": f"[{host}]:{port}" if ":" in host and "[" not in host else f"{host}:{port}",
        "worker_class": "image_classification.serving.worker.Worker",
        "workers": plan.processes,
        "threads": plan.threads,
        # The worker's loop gives signs of life whatever its threads do, but not while it loads.
        "timeout": STARTUP_TIMEOUT.read_integer(1),
        "graceful_timeout": GRACEFUL_SECONDS,
        "keepalive": _KEEP_ALIVE_SECONDS,
        "backlog": 2048,
        "loglevel": "warning",
        # For the heartbeat file: works on a read-only root and never waits for a disk.
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108
        "control_socket_disable": True,
        "child_exit": _after_worker,
    }


def _after_worker(arbiter: Arbiter, worker: Worker) -> None:
    """Runs in the arbiter when a worker has ended: what was in it has no answer.

    Raises:
        HaltServer: too many have died lately for the next one to fare better, or the models of a
            multi-model endpoint ended with it: the platform would go on asking for them.
    """
    lost = worker.requests_in_flight
    if lost:
        Worker.lost_before += lost
        sys.stderr.write(f"process {worker.pid} ended with {lost} requests in it, unanswered\n")
    if not arbiter.LISTENERS:  # the server is being stopped
        return
    if IS_MULTI_MODEL.read_switch():
        raise HaltServer("the loaded models ended with their process", 1)
    now = time.monotonic()
    _deaths[:] = [then for then in _deaths if now - then < _DEATHS_SECONDS] + [now]
    if len(_deaths) == _MOST_DEATHS:
        raise HaltServer(f"{_MOST_DEATHS} processes died within {_DEATHS_SECONDS:.0f} s", 1)


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn carries no types
    """gunicorn's application.

    Attributes:
        plan: how each process works.
        health: of this process; there once it has loaded its model.
    """

    def __init__(self, settings: dict[str, Any], plan: Plan, artifact: Artifact | None) -> None:
        self._settings, self._artifact = settings, artifact
        self.plan, self.health = plan, Health()
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Runs in the worker: nothing of the model is loaded before the fork."""
        from image_classification.serving.app import create_server_app

        try:
            return create_server_app(self._artifact, self.plan, self.health)
        except Exception as error:
            report_failure(error, None)
            # With any other code gunicorn would start the worker again, for ever.
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
