"""Write the golden files: what version 0.1.0 wrote and answered, for later versions to read.

Run on 0.1.0, commit 243f548, once in the environment of each backend:

    python -m tests.golden.write torch reference
    python -m tests.golden.write tensorflow
    python -m tests.golden.write mxnet

NEVER REWRITE GOLDEN FILES: users have such artifacts and checkpoints, and a version that cannot
read them, or gives other answers, is wrong. So this script does not replace files. Files for new
features of later versions get names of their own.

All networks start from weights that are mostly zeros, and small fractions elsewhere. Blocks that
are switched off stay zero in every step, so that a network and the moments of its optimizer take
only a few kilobytes when packed.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save

from tests.contract.jobs import run_command, run_train, write_job
from tests.golden import cases
from tests.golden.cases import ARTIFACTS, CHECKPOINTS, GOLDEN, KILLED_AFTER, PICTURES, RECORDS, Job


def main(backends: list[str]) -> None:
    """Write the files that do not exist yet, then those of the backends' jobs."""
    _write_pictures()
    _write_records()
    _write_interfaces()
    for name, job in ARTIFACTS.items():
        archive = GOLDEN / "artifacts" / f"{name}.tar.gz"
        if job.backend in backends and not archive.exists():
            _write_artifact(job, archive)
    for backend in backends:
        archive = GOLDEN / "checkpoints" / f"{backend}.tar.gz"
        if backend in CHECKPOINTS and not archive.exists():
            _write_checkpoint(CHECKPOINTS[backend], archive)


def _write_pictures() -> None:
    if PICTURES.exists():
        return
    for split, numbers in (("train", range(6)), ("validation", range(6, 9))):
        for index, name in enumerate(("blue", "green", "red")):
            folder = PICTURES / split / name
            folder.mkdir(parents=True)
            for number in numbers:
                _picture(index, number).save(folder / f"{name}{number}.png", optimize=True)
    _picture(2, 9).save(PICTURES / "one.jpg", quality=95)


def _picture(index: int, number: int) -> Image.Image:
    """Slopes of their own for each number; one color is stronger, which tells the class."""
    y, x = np.mgrid[0:24, 0:20]
    slopes = [(number * k % 5, number * (k + 2) % 4) for k in (1, 2, 3)]
    pixels = np.stack([a * x + b * y + 20 for a, b in slopes], axis=-1)
    pixels[..., (index + 2) % 3] += 70 - 25 * (number % 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _write_records() -> None:
    if RECORDS.exists():
        return
    RECORDS.parent.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        listed = cases.write_list(Path(folder), "validation") / "validation.lst"
        (listed.parent / RECORDS.with_suffix(".lst").name).write_text(listed.read_text())
        listed = listed.with_name(RECORDS.with_suffix(".lst").name)
        options = ("--pack-label", "--pass-through")
        done = run_command("pack", listed, PICTURES / "validation", *options)
        assert done.returncode == 0, done.stderr
        for kind in (".rec", ".idx"):
            written = listed.with_suffix(kind)
            RECORDS.with_suffix(kind).write_bytes(written.read_bytes())


def _write_interfaces() -> None:
    for interface in ("mxnet", "tensorflow"):
        path = GOLDEN / "interfaces" / f"{interface}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            definitions = cases.described(interface)["TrainingSpecification"]["MetricDefinitions"]
            path.write_text(json.dumps(definitions, indent=1) + "\n")


def _write_artifact(job: Job, archive: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        channels = cases.channels_of(job.kind, folder / "data")
        channels["model"] = _start(job, folder)
        base = write_job(folder / "ml", job.hyperparameters, channels)
        done = run_train(base)
        assert done.returncode == 0, done.stdout + done.stderr
        _pack(base / "model", archive)
        found = {
            "evaluate": cases.evaluated(job, archive, folder / "evaluated"),
            "predict": cases.predicted(archive),
            "serve": cases.served(cases.unpacked(archive, folder / "served")),
            "lines": cases.metric_lines(done.stdout, _definitions(job)),
        }
    found["metrics"] = cases.scraped(found["lines"], _definitions(job))
    _write_json(archive, found)


def _write_checkpoint(job: Job, archive: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_killed(job, folder, archive)
        base, log = cases.resumed(job, archive, folder / "resumed")
        weights = load_file(base / "model" / "weights.safetensors")
        measured = cases.measured(base / "output" / "data" / "history.json")
    lines = cases.metric_lines(log, _definitions(job))
    found = {
        "resumed": re.findall(r"Resumed .*", log),
        "lines": lines,
        "metrics": cases.scraped(lines, _definitions(job)),
        "history": measured,
        "weights": {name: cases.summary(value) for name, value in sorted(weights.items())},
    }
    _write_json(archive, found)


def _write_killed(job: Job, folder: Path, archive: Path) -> None:
    """The checkpoints of the job, killed where KILLED_AFTER says; tried until it comes in time."""
    start = _start(job, folder)
    for attempt in range(10):
        channels = cases.channels_of(job.kind, folder / f"data{attempt}") | {"model": start}
        base = write_job(folder / f"ml{attempt}", job.hyperparameters, channels)
        (base / "checkpoints").mkdir()
        command = [sys.executable, "-m", "image_classification", "train", "--base-dir", str(base)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if (base / "checkpoints" / f"{KILLED_AFTER}.json").exists():
                process.kill()
            time.sleep(0.001)
        left = sorted(path.name for path in (base / "checkpoints").iterdir())
        stems = ("checkpoint-0000", KILLED_AFTER)
        whole = sorted(f"{stem}.{kind}" for stem in stems for kind in ("json", "safetensors"))
        if process.wait() == -signal.SIGKILL and left == whole:
            _pack(base / "checkpoints", archive)
            return
    raise AssertionError(f"the kill never came in time; it left {left}")


def _start(job: Job, folder: Path) -> Path:
    """An artifact of mostly zeros, which the jobs start from."""
    given = job.hyperparameters | {"epochs": 1, "learning_rate": 0}
    given = {name: value for name, value in given.items() if name != "checkpoint_steps"}
    channels = cases.channels_of(job.kind, folder / "start-data")
    base = write_job(folder / "start", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    path = base / "model" / "weights.safetensors"
    shapes = {name: value.shape for name, value in load_file(path).items()}
    path.write_bytes(save(_sparse(shapes)))
    manifest = json.loads((base / "model" / "manifest.json").read_text())
    content = path.read_bytes()
    fingerprint = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"][path.name] = fingerprint
    (base / "model" / "manifest.json").write_text(json.dumps(manifest))
    return base / "model"


_LIVE = {  # layer → its live outputs, and inputs; all others are zero, and stay so
    "stem.conv": (16, 3),
    "stage1.block1.shortcut": (16, 16),
    "stage1.block2.conv1": (2, 16),
    "stage1.block2.conv2": (16, 2),
    "stage2.block1.shortcut": (16, 16),
    "stage3.block1.shortcut": (16, 16),
    "head": (3, 16),
    "stage1.block1.bn1": (16, 0),
    "stage1.block2.bn1": (16, 0),
    "stage1.block2.bn2": (2, 0),
    "stage2.block1.bn1": (16, 0),
    "stage3.block1.bn1": (16, 0),
    "final.bn": (16, 0),
}


def _sparse(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights for which only the shortcuts and two channels of one block are alive."""
    numbers = _numbers()
    return {name: _weight(name, shape, numbers) for name, shape in sorted(shapes.items())}


def _weight(name: str, shape: tuple[int, ...], numbers: Iterator[int]) -> np.ndarray:
    layer, _, kind = name.rpartition(".")
    outputs, inputs = _LIVE.get(layer, (0, 0))
    value = np.zeros(shape, np.float32)
    if kind == "running_var":
        value[:] = 1
    elif kind == "bias" and layer.rpartition(".")[2].startswith("bn") and layer != "input.bn":
        value[outputs:] = -1  # below zero, where ReLU has no gradient
    elif kind == "weight" and value.ndim == 1:
        value[:outputs] = 1
    elif kind == "weight":
        live = value[:outputs, :inputs]
        live.flat = [next(numbers) % 9 - 4 for _ in range(live.size)]
        live /= 32 if "block2.conv" in layer else 8
    return value


def _numbers() -> Iterator[int]:
    """Draw the same numbers on every machine."""
    state = 243
    while True:
        state = (state * 1103515245 + 12345) % 2**31
        yield state >> 16


def _definitions(job: Job) -> list[dict[str, str]]:
    return list(json.loads((GOLDEN / "interfaces" / f"{job.interface}.json").read_text()))


def _pack(folder: Path, archive: Path) -> None:
    """Pack a folder as the platform does, with its files at the top."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "x:gz", compresslevel=9) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, filter=_without_owner)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _write_json(archive: Path, found: dict[str, Any]) -> None:
    path = archive.with_name(archive.name.replace(".tar.gz", ".json"))
    text = json.dumps(found, ensure_ascii=False, indent=1)
    short = re.sub(r"\[[-\d.,\se]+\]", lambda list_: " ".join(list_[0].split()), text)
    path.write_text(short + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
