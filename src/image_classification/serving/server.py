"""The server process: gunicorn around the application, with settings from the environment.

One worker process owns the model; its threads decode, prepare and run. The model is loaded after
the fork. SIGTERM stops listening, lets running requests finish and ends the process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from image_classification.artifact import open_artifact
from image_classification.contract import environment
from image_classification.contract.failure import report_failure
from image_classification.errors import UserError
from image_classification.serving.batch_transform import execution_parameters
from image_classification.serving.settings import read_settings

if TYPE_CHECKING:
    from flask import Flask

GRACEFUL_SECONDS = 25
"""SageMaker kills 30 s after SIGTERM."""

_KEEP_ALIVE_SECONDS = 75  # longer than the platform's client keeps a connection (70 s)


def serve(model: Path, host: str, port: int) -> None:
    """Serve the artifact in `model` (folder or model.tar.gz) until SIGTERM or SIGINT.

    Raises:
        ArtifactError: before a process is started, if the artifact is not usable.
    """
    _check_settings()
    with open_artifact(model) as artifact, _exported_model_dir(artifact.directory):
        _Server(settings(host, port)).run()


def _check_settings() -> None:
    """Find a bad setting here, where it ends the command, and not in a worker."""
    if environment.IS_MULTI_MODEL.read_switch():
        raise UserError(
            f"{environment.IS_MULTI_MODEL.name}={environment.IS_MULTI_MODEL.read()}: this version "
            "has no multi-model endpoints; deploy one model an endpoint"
        )
    environment.MAX_PIXELS.read_integer(1)
    execution_parameters(read_settings().max_content_length)


def settings(host: str, port: int) -> dict[str, Any]:
    """Gunicorn's settings."""
    return {
        "bind": f"{host}:{port}",
        "worker_class": "gthread",
        "workers": 1,
        "threads": environment.SERVER_THREADS.read_integer(1),
        "timeout": environment.SERVER_TIMEOUT.read_integer(1),
        "graceful_timeout": GRACEFUL_SECONDS,
        "keepalive": _KEEP_ALIVE_SECONDS,
        "loglevel": "warning",
        # For the heartbeat file: works on a read-only root and never waits for a disk.
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108
        "control_socket_disable": True,
    }


@contextmanager
def _exported_model_dir(directory: Path) -> Iterator[None]:
    """Tell the workers, which inherit the environment, where the artifact is."""
    name = environment.MODEL_DIR.name
    before = os.environ.get(name)
    os.environ[name] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn carries no types
    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Runs in the worker: nothing of the model is loaded before the fork."""
        from image_classification.serving.app import create_server_app

        try:
            return create_server_app()
        except Exception as error:
            report_failure(error, None)
            # With any other code gunicorn would start the worker again, for ever.
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
