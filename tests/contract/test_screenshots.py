"""`scripts/screenshots` makes the pictures of the documentation from real runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("playwright.sync_api")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on PATH")
def test_the_script_makes_every_picture_of_the_pages_anew(tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "screenshots.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, env=dict(os.environ))
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in (REPOSITORY / "docs" / "images").iterdir()}
