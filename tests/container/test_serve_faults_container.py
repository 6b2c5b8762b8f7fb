"""The serve image under overload, termination and kills, and as a multi-model endpoint."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.container.engine import HARDENED, docker, inspect, serving
from tests.contract.jobs import Answer
from tests.contract.raw_http import Client, connected, request

SMALL = [*HARDENED, "--memory", "400m", "--memory-swap", "400m", "--pids-limit", "128"]


def setting(name: str, value: str) -> list[str]:
    return ["-e", f"{name}={value}"]


@pytest.fixture(scope="module")
def photo(trained: Path) -> bytes:
    folder = trained / "input" / "data" / "validation" / "green"
    return next(folder.iterdir()).read_bytes()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A photograph of 12 megapixels, which half a CPU decodes in more than a tenth of a second."""
    from PIL import Image

    path = tmp_path_factory.mktemp("large") / "large.jpg"
    noise = Image.effect_noise((1000, 750), 60).resize((4000, 3000))
    noise.convert("RGB").save(path, quality=85)
    return path.read_bytes()


def test_overload_gets_503_and_pings_are_still_answered(
    serve_image: str, trained: Path, large: bytes
) -> None:
    options = [*SMALL, "--cpus", "0.5", *setting("SAGEMAKER_MODEL_JOB_QUEUE_SIZE", "4")]
    with serving(serve_image, trained / "model", options) as server:

        def ask(_: int) -> Answer:
            return server.invoke(large, Content_Type="image/jpeg")

        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(ask, number) for number in range(48)]
            assert server.get("/ping").status == 200
            answers = [one.result() for one in asked]
        assert {answer.status for answer in answers} == {200, 503}
        refused = next(answer for answer in answers if answer.status == 503)
        assert refused.headers["Retry-After"] == "1"
        assert server.invoke(large, Content_Type="image/jpeg").status == 200


def test_many_unfinished_large_bodies_stay_within_the_memory(
    serve_image: str, trained: Path, photo: bytes
) -> None:
    with serving(serve_image, trained / "model", SMALL) as server:
        clients = [Client(server) for _ in range(40)]  # 600 MB together
        try:
            for client in clients:
                try:
                    client.send(request(b"\0" * 15_000_000, length=16_000_000))
                except (BrokenPipeError, ConnectionResetError):
                    pass  # refused, and the connection is closed
            state = inspect("container", server.container.name)["State"]
            assert state["Running"] and not state["OOMKilled"]
            assert server.get("/ping").status == 200
        finally:
            for client in clients:
                client.close()
        deadline = time.monotonic() + 30
        while server.invoke(photo, Content_Type="image/jpeg").status != 200:
            assert time.monotonic() < deadline, server.container.log()


def test_docker_stop_answers_queued_requests(serve_image: str, trained: Path, large: bytes) -> None:
    with serving(serve_image, trained / "model", [*HARDENED, "--cpus", "0.5"]) as server:
        clients = [Client(server) for _ in range(8)]
        for client in clients:
            client.send(request(large))
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(client.answer) for client in clients]
            assert server.container.stop(30) == 0, server.container.log()
            assert [answer.result().status for answer in answers] == [200] * 8
        for client in clients:
            client.close()


def test_a_killed_worker_is_replaced_and_the_container_keeps_running(
    serve_image: str, trained: Path, photo: bytes
) -> None:
    kill = (
        "import os, pathlib; os.kill(int(pathlib.Path('/proc/1/task/1/children').read_text()), 9)"
    )
    with serving(serve_image, trained / "model") as server:
        done = docker("exec", server.container.name, "python3", "-c", kill)
        assert done.returncode == 0, done.stderr
        assert server.invoke(photo, Content_Type="image/jpeg").status == 200
        assert server.container.is_running()


def test_slow_clients_get_408_from_a_container_with_a_read_only_root(
    serve_image: str, trained: Path
) -> None:
    options = [*HARDENED, *setting("IMAGE_CLASSIFICATION_READ_TIMEOUT", "1")]
    with serving(serve_image, trained / "model", options) as server, connected(server) as client:
        client.send(request(b"half", length=1000))
        assert client.answer().status == 408


def test_the_image_is_a_multi_model_endpoint(serve_image: str, trained: Path, photo: bytes) -> None:
    options = [*SMALL, *setting("SAGEMAKER_MULTI_MODEL", "true")]
    options += ["-v", f"{trained / 'model'}:/opt/ml/models/abc/model:ro"]
    named = json.dumps({"model_name": "abc", "url": "/opt/ml/models/abc/model"}).encode()
    label = "com.amazonaws.sagemaker.capabilities.multi-models"
    assert inspect("image", serve_image)["Config"]["Labels"][label] == "true"
    with serving(serve_image, trained / "model", options) as server:
        assert server.send("POST", "/models/abc/invoke", photo).status == 404
        statuses = [server.send("POST", "/models", named).status for _ in range(2)]
        assert statuses == [200, 409]
        answer = server.send("POST", "/models/abc/invoke", photo, Content_Type="image/jpeg").json()
        assert isinstance(answer, list) and len(answer) == 3
        assert server.send("DELETE", "/models/abc").status == 200
        assert server.send("DELETE", "/models/abc").status == 404
