"""Real processes of the product: `train` jobs and what they write."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device_checks import pictures
from device_checks.one import Given

TINY = {"image_shape": "3,32,32", "num_layers": "20", "learning_rate": "0.05", "resize": "32"}
"""Hyperparameters of a small network on small images."""

_PROGRAM = [sys.executable, "-u", "-m", "image_classification"]


def write(
    given: Given, hyperparameters: Mapping[str, str], images: int, validation: int = 8
) -> Path:
    """Write the tree of a job, as SageMaker does; return its folder."""
    base = given.work / "ml"
    config = base / "input" / "config"
    config.mkdir(parents=True)
    (base / "checkpoints").mkdir()
    photos = pictures.files(given, given.size(64, 6))
    for channel, count in (("train", images), ("validation", validation)):
        pictures.class_folders(base / "input" / "data" / channel, photos, count)
    set_hyperparameters(base, hyperparameters)
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
    inputs = dict.fromkeys(("train", "validation"), channel)
    (config / "inputdataconfig.json").write_text(json.dumps(inputs))
    return base


def set_hyperparameters(base: Path, hyperparameters: Mapping[str, str]) -> None:
    """Write the hyperparameters of a job, also before another start of it."""
    path = base / "input" / "config" / "hyperparameters.json"
    path.write_text(json.dumps(dict(hyperparameters)))


def start(
    words: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command of the product; its output is appended to `log`."""
    own = os.environ | dict(environment or {})
    with log.open("ab") as file:
        return subprocess.Popen(
            [*_PROGRAM, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=own,
        )


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the log has a text; return False if the process ends before."""
    while True:
        is_over = process.poll() is not None
        if text in log.read_text("utf-8", "replace"):
            return True
        if is_over:
            return False
        time.sleep(0.02)


def show(log: Path) -> None:
    """Write a log to the check's own."""
    print(f"---- {log.name}\n{log.read_text('utf-8', 'replace')}", flush=True)


def epochs_of(base: Path) -> list[dict[str, Any]]:
    """Return the records of a job's epochs so far."""
    content = json.loads((base / "output" / "data" / "history.json").read_text("utf-8"))
    return list(content["epochs"])


def have_finite_losses(epochs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the loss of each epoch is a number."""
    return all(math.isfinite(epoch["train"]["loss"]) for epoch in epochs)


def free_port() -> int:
    """Return a port that nobody listens on, with free ones after it most probably."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
