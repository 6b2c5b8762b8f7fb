"""The contenders of the loader benchmark, their interpreters and processes."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from setting import interpreters
from setting.interpreters import CACHE, SOURCE


@dataclass(frozen=True)
class Pipeline:
    """A contender.

    Attributes:
        module: beside this file.
        library: what its interpreter is asked for; "" for the one that runs the benchmark.
        imports: a module whose presence says that the library is installed.
        requirements: what pip installs.
        variants: names of the rows.
        has_crops: whether it can make given crops, so that its quality can be measured.
    """

    module: str
    library: str
    imports: str
    requirements: str
    variants: tuple[str, ...]
    has_crops: bool = True

    @property
    def install(self) -> str:
        """Return the command that makes the environment of this contender."""
        folder = CACHE / self.library
        return f"python3.11 -m venv {folder} && {folder}/bin/pip install {self.requirements}"


OURS = ("ours-records", "ours-segmented", "ours-folders", "ours-bare")
PIPELINES = (
    Pipeline("ours", "", "image_classification", "", OURS),
    Pipeline("floor", "", "simplejpeg", "", ("libjpeg-turbo-decode",), has_crops=False),
    Pipeline(
        "torch_pillow",
        "torch",
        "torch",
        "torch pillow numpy",
        ("torch-pillow", "torch-pillow-float"),
    ),
    Pipeline(
        "tf_data",
        "tensorflow",
        "tensorflow",
        "tensorflow-cpu==2.21.0",
        ("tf-data", "tf-data-antialias"),
    ),
    Pipeline(
        "mxnet_records",
        "mxnet",
        "mxnet",
        "mxnet==1.9.1 numpy==1.23.5  # needs Debian's libgomp1 and libquadmath0",
        ("mxnet-records",),
    ),
    Pipeline(
        "dali",
        "dali",
        "nvidia.dali",
        "nvidia-dali-cuda120==2.4.0 numpy",
        ("dali", "dali-antialias"),
    ),
)


def find_interpreters(given: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return library → interpreter, and for missing ones module → install command."""
    found, skipped = {}, {}
    for pipeline in PIPELINES:
        chosen = interpreters.find(pipeline.library, [pipeline.imports], given)
        if chosen is not None:
            found[pipeline.library] = chosen
        else:
            skipped[pipeline.module] = pipeline.install
    return found, skipped


class Process:
    """A contender's process, which stays alive between passes."""

    def __init__(self, pipeline: Pipeline, interpreter: str, folder: Path) -> None:
        self.pipeline = pipeline
        # Another environment's libraries must not reach a contender's interpreter.
        own = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        if not pipeline.library:
            own = {**os.environ, "PYTHONPATH": str(SOURCE)}
        command = [interpreter, str(Path(__file__).with_name(f"{pipeline.module}.py"))]
        command += ["--files", str(folder / "files.txt"), "--records", str(folder / "plain.rec")]
        command += ["--segmented", str(folder / "segmented.rec")]
        self._log = (folder / f"{pipeline.module}.log").open("w+")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=own,
            text=True,
        )  # fmt: skip
        self.version: str = self._answer()["version"]

    def ask(self, order: dict[str, object]) -> dict[str, float]:
        """Send an order and return the answer."""
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, object]:
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"{self.pipeline.module} failed:\n{self._log.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()
