"""The artifact that benchmarks of the server serve if the caller names none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setting.interpreters import SOURCE


def export(folder: Path) -> Path:
    """Write EfficientNet-Lite0 with ImageNet's 1,000 classes as an artifact; return its folder."""
    words = ["export", "--backbone", "efficientnet_lite0", "--output", str(folder)]
    own = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "image_classification", *words]
    if subprocess.run(command, env=own, stdout=sys.stderr).returncode:  # ours is the JSON
        raise SystemExit("no model to serve: give --model, the folder of an artifact")
    return folder
