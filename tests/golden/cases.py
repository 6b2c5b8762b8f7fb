"""The jobs of the golden files and the requests to them, for the tests and for `write.py`.

This uses only command lines, HTTP and file formats, and none of the package's modules.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.contract.jobs import Server, run_command, run_train, running_server, write_job

GOLDEN = Path(__file__).parent
PICTURES = GOLDEN / "pictures"
RECORDS = GOLDEN / "records" / "several-labels.rec"
"""The validation pictures with three labels each, packed; a class is present or not."""

LABELS = ("cold", "leafy", "warm")
"""Classes of the multi-label jobs: blue, green or blue, red."""

SHARED = {"image_shape": "3,16,16", "backbone": "resnet20"}
MXNET = SHARED | {"resize": 18, "mini_batch_size": 4, "augmentation_type": "crop"}
TENSORFLOW = SHARED | {"batch_size": 4, "use_pretrained_model": "False"}
_HEAD = {"train_only_top_layer": "True"}  # the rest of the network stays easy to compress


@dataclass(frozen=True)
class Job:
    """A job that wrote a golden file.

    Attributes:
        backend: its backend.
        given: its hyperparameters.
        kind: its channels: `mxnet`, `several labels`, `tensorflow` or `two classes`.
    """

    backend: str
    given: Mapping[str, object]
    kind: str = "mxnet"

    @property
    def hyperparameters(self) -> dict[str, object]:
        return dict(self.given) | {"backend": self.backend}

    @property
    def interface(self) -> str:
        return "tensorflow" if self.kind in {"tensorflow", "two classes"} else "mxnet"


_PLAIN = MXNET | _HEAD | {"epochs": 4, "learning_rate": 0.2, "top_k": 2}
_SEVERAL = MXNET | _HEAD | {"epochs": 4, "learning_rate": 0.2, "multi_label": 1, "num_classes": 3}
_SEVERAL |= {"labels": ",".join(LABELS), "use_weighted_loss": 1}
_KERAS = TENSORFLOW | _HEAD | {"epochs": 4, "learning_rate": 0.2}
_BINARY = _KERAS | {"binary_mode": "True", "eval_metric": "auc", "keep_last_weights": "True"}

ARTIFACTS = {
    "reference": Job("reference", _PLAIN | {"epochs": 1}),
    **{backend: Job(backend, _PLAIN) for backend in ("torch", "tensorflow", "mxnet")},
    **{
        f"{backend}-several-labels": Job(backend, _SEVERAL, "several labels")
        for backend in ("torch", "tensorflow", "mxnet")
    },
    "torch-two-classes": Job("torch", _BINARY, "two classes"),
    "tensorflow-keras-interface": Job("tensorflow", _KERAS, "tensorflow"),
    "mxnet-keras-interface": Job("mxnet", _KERAS, "tensorflow"),
}
"""Name of an artifact → the job that wrote it."""

_RESUMED = {"epochs": 3, "checkpoint_steps": 3}
CHECKPOINTS = {
    "torch": Job("torch", MXNET | _RESUMED | {"learning_rate": 0.01, "optimizer": "adam"}),
    "tensorflow": Job(
        "tensorflow",
        TENSORFLOW | _RESUMED | {"learning_rate": 0.02, "optimizer": "nesterov"},
        "tensorflow",
    ),
    "mxnet": Job(
        "mxnet", MXNET | _RESUMED | {"learning_rate": 0.02, "optimizer": "sgd", "momentum": 0.9}
    ),
}
"""Backend → the job that was killed in its second epoch, after the third of its five steps.

They have the slots of three optimizers. With TensorFlow, 0.1.0 could not save those of adam.
"""

KILLED_AFTER = "checkpoint-0001-000003"


def channels_of(kind: str, folder: Path) -> dict[str, Path]:
    """Return the channels of a kind of job; write those that are not committed to `folder`."""
    split = {name: PICTURES / name for name in ("train", "validation")}
    if kind == "mxnet":
        return split
    if kind == "several labels":
        return split | {f"{name}_lst": write_list(folder, name) for name in split}
    if kind == "two classes":
        for name in split:
            for color in ("blue", "red"):
                shutil.copytree(PICTURES / name / color, folder / name / color)
            split[name] = folder / name
    named = {"training": split["train"], "validation": split["validation"]}
    return named | {"test": split["validation"]}


def write_list(folder: Path, name: str) -> Path:
    """Write the list channel of a split, each picture with its three labels."""
    target = folder / f"{name}_lst"
    target.mkdir(parents=True)
    lines = []
    for number, path in enumerate(sorted((PICTURES / name).rglob("*.png"))):
        color = path.parent.name
        present = (color == "blue", color in {"blue", "green"}, color == "red")
        columns = "\t".join(str(int(label)) for label in present)
        lines.append(f"{number}\t{columns}\t{path.relative_to(PICTURES / name)}\n")
    (target / f"{name}.lst").write_text("".join(lines))
    return target


def labelled_data(job: Job) -> Path:
    """Return the data on which `evaluate` measures the job's artifact."""
    return RECORDS if job.kind == "several labels" else PICTURES / "validation"


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack an archive into a folder, as the platform does."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def evaluated(job: Job, archive: Path, folder: Path) -> dict[str, Any]:
    """Return the numbers of `evaluate`."""
    data = labelled_data(job)
    if job.kind == "two classes":
        data = channels_of(job.kind, folder)["validation"]
    done = run_command("evaluate", "--model", archive, "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def predicted(archive: Path) -> str:
    """Return the table of `predict` for all validation pictures."""
    options = ("predict", "--model", archive, "--format", "csv", "validation")
    done = run_command(*options, folder=PICTURES)
    assert done.returncode == 0, done.stderr
    return done.stdout


ACCEPTS = (
    *("*/*", "application/json", "application/json;verbose", "application/json;verbose;top_k=2"),
    *("application/json;verbose;threshold=0.3", "application/jsonlines"),
    *("application/jsonlines;verbose", "text/csv", "text/csv;verbose", "text/csv;top_k=1"),
)


def requests() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return name → body and headers: every Accept for one picture, and every body of several."""
    paths = [PICTURES / "validation" / name for name in ("blue/blue7.png", "red/red6.png")]
    first, second = (path.read_bytes() for path in paths)
    texts = [base64.b64encode(content).decode() for content in (first, second)]
    several = json.dumps({"instances": [{"b64": text} for text in texts]}).encode()
    lines = "".join(json.dumps({"image": text}) + "\n" for text in texts).encode()
    parts = b"".join(
        b'--golden\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + content + b"\r\n"
        for content in (first, second)
    )
    png = {"Content_Type": "image/png"}
    asked = {f"one picture, {accept}": (first, png | {"Accept": accept}) for accept in ACCEPTS}
    asked["one picture of no kind"] = (second, {"Content_Type": "application/x-image"})
    asked["one JPEG, application/json;verbose"] = (
        (PICTURES / "one.jpg").read_bytes(),
        {"Content_Type": "image/jpeg", "Accept": "application/json;verbose"},
    )
    bodies = {
        "instances": (several, "application/json"),
        "lines": (lines, "application/jsonlines"),
        "parts": (parts + b"--golden--\r\n", "multipart/form-data; boundary=golden"),
        "records": (RECORDS.read_bytes(), "application/x-recordio"),
    }
    for name, (body, content_type) in bodies.items():
        asked[name] = (body, {"Content_Type": content_type})
    for accept in ("application/json;verbose", "application/jsonlines", "text/csv"):
        headers = {"Content_Type": "application/json", "Accept": accept}
        asked[f"instances, {accept}"] = (several, headers)
    asked["not an image"] = (b"not an image", png)
    asked["an unknown form"] = (first, png | {"Accept": "application/xml"})
    asked["an unknown body"] = (first, {"Content_Type": "text/html"})
    return asked


def served(model: Path) -> dict[str, dict[str, Any]]:
    """Return the answers of a real server to all requests."""
    with running_server(model) as server:
        return {
            name: _answer(server, body, headers) for name, (body, headers) in requests().items()
        }


def _answer(server: Server, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    answer = server.invoke(body, **headers)
    kind = answer.headers["Content-Type"]
    return {"status": answer.status, "content_type": kind, "body": answer.body.decode()}


_NUMBER = re.compile(r"-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b")


def parted(text: str) -> tuple[str, list[float]]:
    """Return a text with # in place of each number, and the numbers."""
    return _NUMBER.sub("#", text), [float(number) for number in _NUMBER.findall(text)]


def metric_lines(log: str, definitions: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the messages of a log in which a published regex finds a number."""
    expressions = [re.compile(definition["Regex"]) for definition in definitions]
    messages = [line.partition("] ")[2] for line in log.splitlines()]
    return [text for text in messages if any(found.search(text) for found in expressions)]


def scraped(
    lines: Iterable[str], definitions: Iterable[Mapping[str, str]]
) -> dict[str, list[float]]:
    """Return metric → its values in the lines, as the platform reads them."""
    lines = list(lines)
    return {
        definition["Name"]: [
            float(found[1]) for line in lines if (found := re.search(definition["Regex"], line))
        ]
        for definition in definitions
    }


def described(interface: str) -> dict[str, Any]:
    """Return the request that `describe` prints."""
    done = run_command("describe", "--interface", interface)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def resumed(job: Job, archive: Path, folder: Path) -> tuple[Path, str]:
    """Resume a job from a copy of the golden checkpoints; return its folder and log."""
    base = write_job(folder / "ml", job.hyperparameters, channels_of(job.kind, folder / "data"))
    unpacked(archive, base / "checkpoints")
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    return base, done.stdout


def measured(history: Path) -> dict[str, Any]:
    """Return the metrics of each epoch of a history.json, and the best epoch."""
    content = json.loads(history.read_text())
    epochs = [{kind: one[kind] for kind in ("train", "validation")} for one in content["epochs"]]
    return {"best_epoch": content["best_epoch"], "epochs": epochs}


def summary(array: np.ndarray) -> list[float]:
    """Return an array's sum, sum of squares, first and last value."""
    value = array.astype(np.float64).ravel()
    return [float(kept) for kept in (value.sum(), (value**2).sum(), value[0], value[-1])]
