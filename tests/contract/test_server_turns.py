"""Requests of many images and small ones next to each other: order, deadlines, numbers that fit."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from image_classification.records.format import RecordHeader, frame_parts, pack_image_record
from image_classification.serving.codec.bodies import MAX_IMAGES
from tests.contract.jobs import Answer, Server, running_server
from tests.contract.raw_http import Client, connected, request

FAULTY = "tests.contract.faulty_server"
MODEL = Path(__file__).parents[1] / "golden" / "artifacts" / "torch.tar.gz"


def tiny_image() -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(body, "PNG")
    return body.getvalue()


TINY = tiny_image()


@contextmanager
def slow(seconds: float, log: Path | None = None, **settings: str) -> Iterator[Server]:
    """A server of one thread whose graph takes this time for each image."""
    given = {"SAGEMAKER_GUNICORN_THREADS": "1", "SECONDS_PER_IMAGE": str(seconds)} | settings
    with running_server(MODEL, program=FAULTY, log=log, **given) as server:
        yield server


def json_body(images: int) -> bytes:
    return json.dumps([base64.b64encode(TINY).decode()] * images).encode()


def bulk_request(images: int, name: str = "bulk") -> bytes:
    body = json_body(images)
    head = (
        "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Amzn-SageMaker-Inference-Id: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def has_answer(client: Client) -> bool:
    client.socket.setblocking(False)
    try:
        return bool(client.socket.recv(1, 2))  # MSG_PEEK
    except BlockingIOError:
        return False
    finally:
        client.socket.settimeout(60)


def line_of(log: Path, name: str) -> dict[str, Any]:
    """The access log's line about a request, as soon as there is one."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for line in log.read_text().splitlines():
            if line.startswith("{") and json.loads(line)["id"] == name:
                return dict(json.loads(line))
        time.sleep(0.05)
    raise AssertionError(f"no line about {name}")


def test_small_requests_are_answered_before_the_large_ones_that_came_first() -> None:
    with slow(0.01) as server, connected(server) as one, connected(server) as other:
        for client in (one, other):
            client.send(bulk_request(200))
        with connected(server) as small:
            for _ in range(20):
                small.send(request(TINY))
                assert small.answer().status == 200
        assert not has_answer(one) and not has_answer(other)
        answers = [client.answer() for client in (one, other)]
        assert [len(json.loads(answer.body)) for answer in answers] == [200, 200]


def test_requests_of_many_images_take_no_room_in_the_queue() -> None:
    with slow(0.01, SAGEMAKER_MODEL_JOB_QUEUE_SIZE="0") as server:
        with connected(server) as bulk, connected(server) as small:
            bulk.send(bulk_request(200))
            time.sleep(0.5)  # until it has arrived
            statuses = []
            while 200 not in statuses and not has_answer(bulk):
                small.send(request(TINY))
                statuses.append(small.answer().status)
            assert 200 in statuses
            assert bulk.answer().status == 200


def test_computing_may_take_longer_than_waiting() -> None:
    with slow(0.01, SAGEMAKER_MODEL_SERVER_TIMEOUT="1") as server, connected(server) as client:
        client.send(bulk_request(150))
        assert len(json.loads(client.answer().body)) == 150


def test_a_request_that_computes_too_long_is_told_how_many_images_fit(tmp_path: Path) -> None:
    settings = {"IMAGE_CLASSIFICATION_COMPUTE_TIMEOUT": "1"}
    log = tmp_path / "log"
    with slow(0.1, log=log, **settings) as server, connected(server) as client:
        client.send(bulk_request(11))  # 1.1 s, which an estimate does not refuse
        check_refusal(client.answer(), 11)
        assert 0 < line_of(log, "bulk")["images"] < 11


def test_a_request_that_cannot_fit_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    settings = {"IMAGE_CLASSIFICATION_COMPUTE_TIMEOUT": "1"}
    log = tmp_path / "log"
    with slow(0.01, log=log, **settings) as server, connected(server) as client:
        client.send(bulk_request(1000))
        fits = check_refusal(client.answer(), 1000)
        assert line_of(log, "bulk")["images"] == 0
        client.send(bulk_request(max(1, fits // 4), "quarter"))
        assert client.answer().status == 200


def check_refusal(answer: Answer, images: int) -> int:
    """Check that the answer names a number of images that fit, and return it."""
    message = json.loads(answer.body)["error"]
    assert answer.status == 413 and "Retry-After" not in answer.headers
    assert f"{images} images" in message and "IMAGE_CLASSIFICATION_COMPUTE_TIMEOUT" in message
    found = re.search(r"at most about (\d+) images fit into 1 s", message)
    assert found, message
    fits = int(found[1])
    assert 1 <= fits <= 100
    return fits


def test_a_caller_who_has_gone_is_noticed_between_two_slices(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with slow(0.01, log=log) as server, connected(server) as client:
        gone = Client(server)
        gone.send(bulk_request(1000))
        client.send(request(TINY))
        assert client.answer().status == 200
        time.sleep(0.5)  # who ends sooner than that may only have sent everything
        gone.close()
        line = line_of(log, "bulk")
        assert line["status"] == 499 and line["images"] < 500


def test_many_images_through_own_code_may_take_longer_than_a_call_that_hangs(
    tmp_path: Path,
) -> None:
    pytest.importorskip("sagemaker_inference")
    with tarfile.open(MODEL) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "code").mkdir()
    own = "def output_fn(results, accept):\n    return str(len(results)), 'text/plain'\n"
    (tmp_path / "code" / "inference.py").write_text(own)
    given = {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "1", "SECONDS_PER_IMAGE": "0.01"}
    own_code = {"SAGEMAKER_PROGRAM": "inference.py"}
    with running_server(tmp_path, program=FAULTY, **given, **own_code) as server:
        with connected(server) as client:
            client.send(bulk_request(150))
            answer = client.answer()
    assert (answer.status, answer.body) == (200, b"150")


def bodies() -> dict[str, bytes]:
    part = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    record = b"".join(frame_parts(pack_image_record(RecordHeader(1.0, 0), TINY)))
    return {
        "application/json": json_body(MAX_IMAGES),
        "multipart/form-data; boundary=cut": (part + TINY + b"\r\n") * MAX_IMAGES + b"--cut--\r\n",
        "application/x-recordio": record * MAX_IMAGES,
    }


def test_the_documented_number_of_images_works_in_each_form_and_at_the_same_time() -> None:
    def send(content_type: str, body: bytes) -> tuple[int, int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        connection.request("POST", "/invocations", body, {"Content-Type": content_type})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, len(json.loads(answer))

    with running_server(MODEL, program=FAULTY, SECONDS_PER_IMAGE="0") as server:
        given = bodies()
        with ThreadPoolExecutor(len(given)) as clients:
            found = list(clients.map(send, given, given.values()))
    assert found == [(200, MAX_IMAGES)] * len(given)
