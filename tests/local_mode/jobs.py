"""What the SDKs' jobs share: hyperparameters of each type, what a job says and leaves."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

ROLE = "arn:aws:iam::111122223333:role/local"
"""Shaped like a role; nobody asks for it."""

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
"""Integers, a number, booleans and text: each SDK writes them in its own way."""

PARAMETER_LINES = [
    "epochs: 6 (given)",
    "learning_rate: 0.002 (given)",
    "optimizer: adam (given)",
    "early_stopping: True (given)",
    "use_pretrained_model: False (given)",
]
"""What the job's log says of them when they arrived."""


def said(action: Callable[[], object]) -> str:
    """What `action` prints, which is printed again: the SDKs pass on a job's output this way."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            action()
    finally:
        sys.stdout.write(output.getvalue())
    return output.getvalue()


def best_accuracy(log: str) -> float:
    """Validation accuracy of the epoch that a job keeps, as its last line says it."""
    found = re.search(r"The best epoch was \d+ with validation accuracy ([\d.]+)", log)
    assert found, f"the job did not end well:\n{log}"
    return float(found.group(1))


def members(archive: Path) -> set[str]:
    """Names of the files in a .tar.gz."""
    with tarfile.open(archive) as tar:
        return {member.name.removeprefix("./") for member in tar if member.isfile()}


def member_text(archive: Path, name: str) -> str:
    """The text of one file in a .tar.gz."""
    with tarfile.open(archive) as tar:
        content = tar.extractfile(name)
        assert content is not None
        return content.read().decode()
