"""A real server process answers over HTTP as SageMaker and the built-ins' clients expect."""

from __future__ import annotations

import json
import shutil
import socket
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contract.jobs import Server, run_command, running_server


@pytest.fixture(scope="module")
def server(trained_job: Path) -> Iterator[Server]:
    with running_server(trained_job / "model", MAX_CONTENT_LENGTH="200000") as running:
        yield running


@pytest.fixture
def red(small_channels: dict[str, Path]) -> bytes:
    return (small_channels["validation"] / "red" / "red000.jpg").read_bytes()


def test_a_ping_is_200_with_an_empty_body(server: Server) -> None:
    answer = server.get("/ping")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/x-image", "image/png"])
def test_an_image_is_answered_with_the_bare_array_of_the_mxnet_interface(
    server: Server, red: bytes, content_type: str
) -> None:
    answer = server.invoke(red, Content_Type=content_type, Accept="application/json")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    probabilities = answer.json()
    assert isinstance(probabilities, list) and len(probabilities) == 3
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert probabilities.index(max(probabilities)) == 2


@pytest.mark.parametrize(
    "accept",
    [
        "application/json;verbose",
        "application/json; verbose",
        "text/html, application/json;Verbose",
    ],
)
def test_verbose_answers_have_labels(server: Server, red: bytes, accept: str) -> None:
    answer = server.invoke(red, Content_Type="image/jpeg", Accept=accept).json()
    assert isinstance(answer, dict)
    assert list(answer) == ["probabilities", "labels", "predicted_label"]
    assert answer["labels"] == ["blue", "green", "red"]
    assert answer["predicted_label"] == "red"


@pytest.mark.parametrize("accept", ["", "*/*"])
def test_no_accept_and_any_accept_get_the_default(server: Server, red: bytes, accept: str) -> None:
    headers = {"Accept": accept} if accept else {}
    answer = server.invoke(red, Content_Type="image/jpeg", **headers)
    assert isinstance(answer.json(), list)


def test_json_lines_are_one_object_on_one_line(server: Server, red: bytes) -> None:
    answer = server.invoke(red, Content_Type="image/jpeg", Accept="application/jsonlines")
    assert answer.body.endswith(b"\n") and answer.body.count(b"\n") == 1
    assert list(json.loads(answer.body)) == ["prediction"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "parts"),
    [
        (b"not an image", {}, 400, ["the image cannot be used"]),
        (b"", {}, 400, ["the body is empty"]),
        (None, {"Content_Type": "text/csv"}, 415, ["'text/csv' is not accepted", "image/jpeg"]),
        (
            None,
            {"Accept": "text/html"},
            406,
            ["'text/html' cannot be produced", "application/json"],
        ),
        (b"\xff" * 200_001, {}, 413, ["200001 bytes", "200000 bytes", "MAX_CONTENT_LENGTH"]),
    ],
)
def test_a_refusal_is_one_line_of_json_with_the_remedy(
    server: Server,
    red: bytes,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    parts: list[str],
) -> None:
    answer = server.invoke(
        red if body is None else body, **({"Content_Type": "image/jpeg"} | headers)
    )
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert b"\n" not in answer.body
    message = json.loads(answer.body)["error"]
    for part in parts:
        assert part in message
    assert "Traceback" not in message


def test_a_truncated_image_is_refused_and_the_server_keeps_answering(
    server: Server, red: bytes
) -> None:
    assert server.invoke(red[: len(red) // 2], Content_Type="image/jpeg").status == 400
    assert server.invoke(red, Content_Type="image/jpeg").status == 200


def test_an_unknown_route_is_404_as_json(server: Server) -> None:
    answer = server.get("/model")
    assert answer.status == 404
    assert "POST /invocations" in json.loads(answer.body)["error"]


def test_batch_transform_gets_json_lines_by_default(trained_job: Path, red: bytes) -> None:
    with running_server(trained_job / "model", SAGEMAKER_BATCH="true") as server:
        answer = server.invoke(red, Content_Type="application/x-image")
        assert list(json.loads(answer.body)) == ["prediction"]
        array = server.invoke(red, Content_Type="image/jpeg", Accept="application/json")
        assert isinstance(array.json(), list)


def test_a_model_archive_is_served_as_it_is(trained_job: Path, tmp_path: Path, red: bytes) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(trained_job / "model", arcname=".")
    with running_server(archive) as server:
        assert server.invoke(red, Content_Type="image/jpeg").status == 200


def test_an_altered_artifact_is_refused_before_anything_listens(
    trained_job: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained_job / "model", model)
    graph = model / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    done = run_command("serve", "--model", model, "--port", "18080")
    assert done.returncode == 2
    assert done.stderr.startswith("ClientError: ") and "model.onnx: changed" in done.stderr


def test_a_folder_without_an_artifact_is_refused_and_its_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "something.bin").write_bytes(b"1")
    done = run_command("serve", "--model", tmp_path)
    assert done.returncode == 2
    assert "something.bin" in done.stderr


def test_predict_and_the_server_give_the_same_answer(
    server: Server, trained_job: Path, small_channels: dict[str, Path], red: bytes
) -> None:
    image = small_channels["validation"] / "red" / "red000.jpg"
    done = run_command("predict", "--model", trained_job / "model", image)
    assert done.returncode == 0, done.stderr
    local = json.loads(done.stdout)
    served = server.invoke(red, Content_Type="image/jpeg", Accept="application/json;verbose").json()
    assert isinstance(served, dict)
    by_name = dict(zip(served["labels"], served["probabilities"], strict=True))
    assert dict(zip(local["labels"], local["probabilities"], strict=True)) == pytest.approx(by_name)


def test_no_command_leaves_telemetry_or_anything_else_in_the_home_folder(
    trained_job: Path, tmp_path: Path, red: bytes
) -> None:
    (tmp_path / "red.jpg").write_bytes(red)
    (tmp_path / "home").mkdir()
    options = ("--model", trained_job / "model", tmp_path / "red.jpg")
    assert run_command("predict", *options, HOME=str(tmp_path / "home")).returncode == 0
    assert not list((tmp_path / "home").rglob("*"))


def test_predict_names_a_bad_image_and_continues(
    trained_job: Path, small_channels: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff")
    good = small_channels["validation"] / "blue" / "blue000.jpg"
    done = run_command("predict", "--model", trained_job / "model", "--top-k", "1", bad, good)
    assert done.returncode == 2
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["image"] == str(bad) and first["error"]
    assert second["labels"] == ["blue"]


def chunked(server: Server, body: bytes) -> bytes:
    """The raw answer to a body that is sent in chunks, without a Content-Length."""
    request = (
        b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        for start in range(0, len(body), 16_384):
            part = body[start : start + 16_384]
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


def test_a_body_in_chunks_is_answered_and_a_too_large_one_is_413(
    server: Server, red: bytes
) -> None:
    assert chunked(server, red).startswith(b"HTTP/1.1 200 ")
    assert chunked(server, red + b"\0" * 250_000).startswith(b"HTTP/1.1 413 ")


def test_a_wrong_method_is_405_and_names_the_right_one(server: Server) -> None:
    answer = server.get("/invocations")
    assert answer.status == 405
    assert "POST" in answer.headers["Allow"]


def test_many_clients_at_once_each_get_their_own_answer(
    server: Server, small_channels: dict[str, Path]
) -> None:
    images = sorted(small_channels["validation"].rglob("*.jpg")) * 6

    def ask(path: Path) -> str:
        body = path.read_bytes()
        answer = server.invoke(body, Content_Type="image/jpeg", Accept="application/json;verbose")
        return str(json.loads(answer.body)["predicted_label"])

    alone = [ask(path) for path in images[:15]] * 6
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, images)) == alone


def test_a_ping_is_answered_while_slow_clients_hold_connections(server: Server) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(16)]
    try:
        for connection in slow:
            connection.sendall(head)
        assert server.get("/ping").status == 200
    finally:
        for connection in slow:
            connection.close()


def test_a_request_that_runs_when_sigterm_arrives_is_answered(
    trained_job: Path, red: bytes
) -> None:
    with running_server(trained_job / "model") as server:
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(red)}\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + red[:100])
            time.sleep(0.5)  # the worker has the request and waits for the rest of its body
            server.process.terminate()
            time.sleep(0.5)
            connection.sendall(red[100:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/html"),
        ("IMAGE_CLASSIFICATION_TOP_K", "0"),
        ("IMAGE_CLASSIFICATION_THRESHOLD", "1.5"),
        ("SAGEMAKER_BATCH_STRATEGY", "ALL_RECORDS"),
        ("MAX_CONTENT_LENGTH", "6MB"),
        ("SAGEMAKER_BIND_TO_PORT", "99999"),
        ("IMAGE_CLASSIFICATION_READ_TIMEOUT", "never"),
        ("IMAGE_CLASSIFICATION_METRICS", "enabled"),
        ("SAGEMAKER_MULTI_MODEL", "ja"),
        ("IMAGE_CLASSIFICATION_BATCHING", "sometimes"),
    ],
)
def test_an_impossible_setting_ends_the_server_before_it_listens(
    trained_job: Path, variable: str, value: str
) -> None:
    done = run_command("serve", "--model", trained_job / "model", **{variable: value})
    assert done.returncode == 2
    assert done.stderr.startswith("ClientError: ") and value in done.stderr
