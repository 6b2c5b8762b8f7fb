"""The README's Docker commands, run unchanged."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY, ClassFolders

# Always stops the server that the README starts in the background.
SCRIPT = """\
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
{commands}
"""


def test_the_readmes_docker_commands_end_with_a_labeled_prediction(
    image: str, serve_image: str, tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    classes = ("daisy", "dandelion", "roses")
    write_class_folders(tmp_path / "flowers", classes, per_class=10, size=(260, 280))
    (block,) = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        commands = block.replace("8080", str(probe.getsockname()[1]))
    commands = commands.replace("preset=transfer", "preset=transfer epochs=1")
    commands = commands.replace("make build\n", "")
    commands = commands.replace("scripts/", f"{REPOSITORY}/scripts/")
    done = subprocess.run(
        ["bash", "-c", SCRIPT.format(commands=commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"BACKEND": image.rpartition("-")[2]},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"labels": ["daisy", "dandelion", "roses"]' in done.stdout
    assert '"predicted_label": ' in done.stdout
