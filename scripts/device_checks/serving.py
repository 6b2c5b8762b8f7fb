"""A server answers with the artifact's probabilities, and its batcher keeps the device busy.

The artifact's are those of ONNX Runtime on the CPU. The product's own server computes where ONNX
Runtime can. If that is not the GPU, a second server has PyTorch in its place (`torch_server`), so
that the batcher meets a real device.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from device_checks import jobs, load, networks, pictures
from device_checks.one import Given
from device_checks.torch_runtime import TorchRuntime
from image_classification.artifact import Artifact, GraphFile, write_artifact
from image_classification.errors import ImageClassificationError
from image_classification.labels.label_map import LabelMap
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving import runtime
from image_classification.serving.admission import GpuSettings
from image_classification.training.output import description_of, engine_writers

_BOUND = 1e-4
_LEAST_BUSY = 0.95
_HALF_BOUND = 0.01  # that the documentation of the setting promises
_BATCH_THREADS = 2  # as the product has on a GPU
_DEFAULT, _ALL = "default settings", "float16, NHWC and CUDA graphs"
_SETTINGS = {
    _DEFAULT: GpuSettings(),
    "float16": GpuSettings(is_half=True),
    "NHWC": GpuSettings(prefers_nhwc=True),
    "CUDA graphs": GpuSettings(has_cuda_graphs=True),
    _ALL: GpuSettings(is_half=True, prefers_nhwc=True, has_cuda_graphs=True),
}
_SECONDS_TO_START, _SECONDS_TO_END = 60, 40


def run(given: Given) -> None:
    rows = given.rows
    photos = pictures.files(given, given.size(64, 6))
    spec = networks.spec_of(given.size("efficientnet_lite0", "resnet20"), 1000)
    preprocessing = networks.preprocessing_of(spec)
    images = pictures.inputs(photos, preprocessing)
    engine = networks.distinct(spec, images)
    artifact = write_artifact(
        given.work / "model",
        description_of("torch", spec.backbone, "mxnet"),
        LabelMap.numbered(networks.CLASSES),
        preprocessing,
        engine_writers(engine),
    )
    engine.release()
    expected = runtime.Runtime(artifact.graph_file).run(images)
    rows.note("network", f"{spec.backbone}, {spec.input_shape}")
    rows.note("median of the largest probability", float(np.median(expected.max(1))))

    contents = [path.read_bytes() for path in photos]
    has_cuda = runtime.CUDA in runtime.onnxruntime.get_available_providers()
    servers = {"serve": ["-m", "image_classification", "serve", "--host", "127.0.0.1"]}
    if given.cpu or not has_cuda:
        servers["server with PyTorch"] = ["-m", "device_checks.torch_server"]
    for name, words in servers.items():
        _check_server(given, name, words, artifact, contents, expected)
    _check_batcher(given, artifact, images)
    if given.cpu or has_cuda:
        _check_settings(given, artifact.graph_file, images, expected)
    else:
        rows.note("settings of a GPU", "not measured: this ONNX Runtime has no CUDA")


def _check_server(
    given: Given,
    name: str,
    words: Sequence[str],
    artifact: Artifact,
    contents: Sequence[bytes],
    expected: FloatArray,
) -> None:
    rows, port, log = given.rows, jobs.free_port(), given.work / f"{name}.log"
    if "image_classification" in words:
        words = [*words, "--model", str(artifact.directory), "--port", str(port)]
    else:
        words = [*words, str(artifact.directory), str(port)]
    with _running(words, log) as process:
        is_ready = _wait_for_ping(port, process)
        rows.expect(f"{name}: ping", 200 if is_ready else "none", 200)
        if is_ready:
            began = time.monotonic()
            with ThreadPoolExecutor(given.size(32, 4)) as clients:
                found = list(clients.map(lambda content: _answer(port, content), contents))
            rows.note(f"{name}: requests per second", len(found) / (time.monotonic() - began))
            difference = np.abs(np.array(found) - expected).max()
            rows.goal(f"{name}: largest difference from the artifact", difference, "≤", _BOUND)
    jobs.show(log)
    rows.expect(f"{name}: exit status after SIGTERM", process.returncode, 0)
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if "Serving " in line]
    where = lines[0].partition(" with ")[2].partition(";")[0] if lines else "no line"
    rows.note(f"{name}: computes with", where)


@contextmanager
def _running(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | {"IMAGE_CLASSIFICATION_BATCHING": "on"},
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
        process.kill()


def _wait_for_ping(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return True
        connection.close()
        time.sleep(0.05)
    return False


def _answer(port: int, content: bytes) -> list[float]:
    """Return the probabilities of an image, in the MXNet built-in's form."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/invocations", content, {"Content-Type": "application/x-image"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise SystemExit(f"the server answered {response.status}: {body[:500]!r}")
    return list(json.loads(body))


def _check_batcher(given: Given, artifact: Artifact, images: UInt8Array) -> None:
    """A full batcher keeps the device busy."""
    found = load.speed_of(
        TorchRuntime(artifact.graph_file),
        images,
        threads=_BATCH_THREADS,
        clients=given.size(3, 1) * load.MAX_BATCH,
        seconds=given.size(5.0, 0.2),
    )
    given.rows.note("batcher: images per second", found.images_per_second)
    given.rows.note("batcher: images per run", found.images_per_run)
    share = found.busy_share
    given.rows.goal("batcher: share of time with a run", share, "≥", _LEAST_BUSY, is_speed=True)


def _check_settings(
    given: Given, graph: GraphFile, images: UInt8Array, expected: FloatArray
) -> None:
    """Each setting of a GPU gives the artifact's probabilities; how fast is it?"""
    for name in given.size(tuple(_SETTINGS), (_DEFAULT, _ALL)):
        settings = _SETTINGS[name]
        try:
            session = runtime.Runtime(graph, device=given.size("cuda", "cpu"), settings=settings)
            found = load.speed_of(
                session,
                images,
                threads=1 if settings.has_cuda_graphs else _BATCH_THREADS,
                clients=given.size(3, 1) * load.MAX_BATCH,
                seconds=given.size(3.0, 0.1),
            )
        except (ImageClassificationError, MemoryError) as error:  # the other settings may work
            given.rows.expect(f"{name}: fault", f"{type(error).__name__}: {error}", "none")
            continue
        given.rows.note(f"{name}: images per second", found.images_per_second)
        difference = np.abs(found.probabilities - expected).max()
        bound = _HALF_BOUND if settings.is_half else _BOUND
        given.rows.goal(f"{name}: largest difference from the artifact", difference, "≤", bound)
