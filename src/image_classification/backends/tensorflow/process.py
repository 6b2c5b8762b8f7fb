"""What must be set in a process before TensorFlow is loaded."""

from __future__ import annotations

import os

_VARIABLES = {
    "TF_CPP_MIN_LOG_LEVEL": "2",  # else a dozen lines about this machine's processor come first
    "KERAS_BACKEND": "tensorflow",  # whatever a keras.json of this machine says
}


def prepare() -> None:
    """Set them; one that has a value keeps it."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
