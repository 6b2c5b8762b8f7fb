"""The program in docs/artifact.md uses model.onnx alone, and answers as the server does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from image_classification.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "artifact.md").read_text("utf-8")


def test_the_documented_lines_answer_as_predict_does(
    trained_job: Path,
    small_channels: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 22
    shutil.copy(trained_job / "model" / "model.onnx", tmp_path)
    (tmp_path / "program.py").write_text(program)
    for photo in sorted(small_channels["validation"].rglob("*00[01].jpg")):
        shutil.copy(photo, tmp_path / "photo.jpg")
        ran = subprocess.run(
            [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        label, probability = ran.stdout.split()
        assert main(["predict", "--model", str(trained_job / "model"), str(photo)]) == 0
        expected = json.loads(capsys.readouterr().out)
        assert label == expected["predicted_label"]
        assert float(probability) == pytest.approx(max(expected["probabilities"]), abs=0.02)
