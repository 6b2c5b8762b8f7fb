"""Shared by the SDKs' tests: hyperparameters of each type, logs and archives of jobs."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

ROLE = "arn:aws:iam::111122223333:role/local"
"""Has the form of a role; nothing uses it."""

HYPERPARAMETERS: dict[str, object] = {
    "num_layers": 20,
    "image_shape": "3,32,32",
    "resize": 36,
    "epochs": 6,
    "mini_batch_size": 8,
    "learning_rate": 0.002,
    "optimizer": "adam",
    "augmentation_type": "crop",
    "early_stopping": True,
    "use_pretrained_model": False,
}
"""Integers, a number, booleans and text, which each SDK writes differently."""

PARAMETER_LINES = [
    "epochs: 6 (given)",
    "learning_rate: 0.002 (given)",
    "optimizer: adam (given)",
    "early_stopping: True (given)",
    "use_pretrained_model: False (given)",
]
"""The job's log lines about them."""


def said(action: Callable[[], object]) -> str:
    """Run `action`, print its output again and return it: the SDKs print a job's output."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            action()
    finally:
        sys.stdout.write(output.getvalue())
    return output.getvalue()


def best_accuracy(log: str) -> float:
    """Return the validation accuracy of the best epoch from a job's last line."""
    found = re.search(r"The best epoch was \d+ with validation accuracy ([\d.]+)", log)
    assert found, f"the job did not end well:\n{log}"
    return float(found.group(1))


def members(archive: Path) -> set[str]:
    """Return the names of the files in a .tar.gz."""
    with tarfile.open(archive) as tar:
        return {member.name.removeprefix("./") for member in tar if member.isfile()}


def member_text(archive: Path, name: str) -> str:
    """Return the text of one file in a .tar.gz."""
    with tarfile.open(archive) as tar:
        content = tar.extractfile(name)
        assert content is not None
        return content.read().decode()
