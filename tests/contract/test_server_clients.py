"""Slow, silent, greedy or malformed clients harm nobody but themselves."""

from __future__ import annotations

import http.client
import io
import json
import socket
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from tests.contract.jobs import Server, running_server
from tests.contract.raw_http import Client, chunked_head, connected, request

PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(trained_job: Path) -> Iterator[Server]:
    settings = {"IMAGE_CLASSIFICATION_READ_TIMEOUT": "1", "MAX_CONTENT_LENGTH": str(2**20)}
    with running_server(trained_job / "model", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def patient_server(trained_job: Path) -> Iterator[Server]:
    """A server that would wait longer than any test for the rest of a request."""
    settings = {"IMAGE_CLASSIFICATION_READ_TIMEOUT": "600"}
    with running_server(trained_job / "model", **settings) as running:
        yield running


@pytest.fixture
def red(small_channels: dict[str, Path]) -> bytes:
    return (small_channels["validation"] / "red" / "red000.jpg").read_bytes()


def test_forty_half_sent_requests_get_408_and_delay_nobody(server: Server, red: bytes) -> None:
    half_heads = [Client(server) for _ in range(20)]
    half_bodies = [Client(server) for _ in range(20)]
    for client in half_heads:
        client.send(b"POST /invocations HTTP/1.1\r\nHost: local")
    for client in half_bodies:
        client.send(request(red[:100], length=len(red)))
    assert server.get("/ping").status == 200
    assert server.invoke(red, Content_Type="image/jpeg").status == 200
    for client, part in [*((c, "head") for c in half_heads), *((c, "body") for c in half_bodies)]:
        answer = client.answer()
        assert answer.status == 408 and part in json.loads(answer.body)["error"]
        assert client.is_closed()
        client.close()


def test_a_client_that_sends_one_byte_at_a_time_is_disconnected(server: Server, red: bytes) -> None:
    with connected(server) as client:
        client.socket.settimeout(0.1)
        client.send(request(length=len(red)))
        for position in range(200):
            try:
                client.send(red[position : position + 1])
                assert b" 408 " in client.socket.recv(1000)
                return
            except TimeoutError:
                continue
        raise AssertionError("a body of 200 bytes in 20 s was waited for")


def test_a_large_body_is_413_by_its_head_alone(server: Server) -> None:
    with connected(server) as client:
        client.send(request(length=20_000_000))
        answer = client.answer()
        assert answer.status == 413 and b"20000000 bytes" in answer.body
        assert answer.headers["Connection"] == "close"


def test_a_large_body_that_is_sent_anyway_still_gets_its_413(server: Server) -> None:
    with connected(server) as client:
        client.send(request(b"\0" * 2_000_000))
        assert client.answer().status == 413


def test_a_body_in_chunks_is_413_as_soon_as_it_is_too_large(server: Server) -> None:
    with connected(server) as client:
        client.send(chunked_head())
        for _ in range(17):
            client.send(b"10000\r\n" + b"\0" * 65_536 + b"\r\n")
        assert client.answer().status == 413


def test_expect_100_continue_is_answered_before_the_body_arrives(
    server: Server, red: bytes
) -> None:
    with connected(server) as client:
        client.send(request(length=len(red), lines="Expect: 100-continue\r\n"))
        assert client.answer().status == 100
        client.send(red)
        assert client.answer().status == 200
        client.send(request(length=20_000_000, lines="Expect: 100-continue\r\n"))
        assert client.answer().status == 413


@pytest.mark.parametrize("is_chunked", [False, True])
def test_http_client_and_curl_may_expect_100_continue(
    server: Server, red: bytes, is_chunked: bool, tmp_path: Path
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Content-Type": "image/jpeg", "Expect": "100-continue"}
    for _ in range(3):
        body = iter([red[:100], red[100:]]) if is_chunked else red
        connection.request("POST", "/invocations", body, headers, encode_chunked=is_chunked)
        response = connection.getresponse()
        assert response.status == 200 and response.read()
    connection.close()
    (tmp_path / "red.jpg").write_bytes(red)
    command = ["curl", "-sS", "--data-binary", f"@{tmp_path / 'red.jpg'}", "-w", "%{http_code}"]
    for name, value in (headers | ({"Transfer-Encoding": "chunked"} if is_chunked else {})).items():
        command += ["-H", f"{name}: {value}"]
    command += ["-m", "20", "--expect100-timeout", "60", "-o", str(tmp_path / "answer")]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}/invocations"], capture_output=True, check=True
    )
    assert done.stdout == b"200"


def test_a_client_that_shuts_down_its_sending_side_gets_its_answer(
    server: Server, red: bytes
) -> None:
    for text in (request(red), PING, request(red) + PING):
        with connected(server) as client:
            client.send(text)
            client.socket.shutdown(socket.SHUT_WR)
            answers = [client.answer() for _ in range(text.count(b"HTTP/1.1") + 1)]
            assert [answer.status for answer in answers[:-1]] == [200] * (len(answers) - 1)
            assert answers[-1].status == 0


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01", "TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (b"POST /invocations HTTP/1.1\n", "LF alone"),
        (b"POST /invocations HTTP/1.1\r\nHost: a\n", "LF alone"),
        (b"GET /ping HTTP/1.1\r\n\r\n", "no Host"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "request line"),
        (b"\xff\xd8\xff\xe0", "request line"),
        (b'{"instances"', "request line"),
        (b"GET /\r\n", "request line"),
        (chunked_head() + b"5\n", "hexadecimal"),
        (chunked_head() + b"0\r\nA: b\n", "trailer"),
    ],
)
def test_bytes_that_cannot_become_a_request_are_refused_at_once(
    patient_server: Server, first: bytes, reason: str
) -> None:
    with connected(patient_server) as client:
        client.socket.settimeout(60)
        client.send(first)
        answer = client.answer()
        assert answer.status == 400 and reason in json.loads(answer.body)["error"]
        assert client.is_closed()


def test_a_body_sent_together_with_expect_100_continue_is_answered(
    server: Server, red: bytes
) -> None:
    with connected(server) as client:
        client.send(request(red, lines="Expect: 100-continue\r\n"))
        assert client.answer().status == 200


def test_requests_on_one_connection_are_answered_in_their_order(server: Server, red: bytes) -> None:
    with connected(server) as client:
        chunks = chunked_head() + f"{len(red):x};a=b\r\n".encode() + red + b"\r\n0\r\nX: y\r\n\r\n"
        client.send(request(red) + PING + chunks + request(b"no image") + PING)
        answers = [client.answer() for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 400, 200]
        assert answers[0].body == answers[2].body and answers[1].body == b""


def test_a_ping_has_no_body_and_no_content_type_also_with_an_upgrade(
    server: Server, red: bytes
) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    with connected(server) as client:
        for ping in (PING, PING[:-2] + upgrade.encode() + b"\r\n"):
            client.send(ping)
            answer = client.answer()
            assert (answer.status, answer.body) == (200, b"")
            assert "Content-Type" not in answer.headers
        client.send(request(red, lines=upgrade))
        assert client.answer().status == 200


@pytest.mark.parametrize("size", [3, 1000])
def test_empty_lines_before_a_request_are_skipped(server: Server, size: int) -> None:
    with connected(server) as client:
        text = b"\r\n\r\n\r\n" + PING
        for start in range(0, len(text), size):
            client.send(text[start : start + size])
        assert client.answer().status == 200


def test_a_client_that_sends_only_empty_lines_is_disconnected(server: Server) -> None:
    with connected(server) as client:
        client.socket.settimeout(0.25)
        for _ in range(20):
            try:
                client.send(b"\r\n")
                client.socket.recv(1000)
                return
            except TimeoutError:
                continue
            except OSError:
                return
        raise AssertionError("a client that sent empty lines for 5 s is still connected")


def test_ten_thousand_pipelined_pings_are_answered(server: Server) -> None:
    with connected(server) as client:
        for _ in range(100):
            client.send(PING * 100)
            assert {client.answer().status for _ in range(100)} == {200}


@pytest.mark.parametrize(
    "false",
    [
        request(b"x", lines="Transfer-Encoding: chunked\r\n"),
        request(b"x", lines="Content-Length: 2\r\n"),
        request(b"x", lines="Transfer-Encoding: identity\r\n"),
        chunked_head("Content-Length: 5\r\n") + b"0\r\n\r\n",
        chunked_head("Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        chunked_head() + b"-1\r\nx\r\n0\r\n\r\n",
        chunked_head() + b"0x1\r\nx\r\n0\r\n\r\n",
        chunked_head() + b"1\r\nxy\r\n0\r\n\r\n",
        chunked_head() + b"1\r\nxyz0\r\n\r\n",
        chunked_head() + b"fffffffff\r\n",
        chunked_head() + b"0\r\nX : y\r\n\r\n",
        chunked_head() + b"0\r\nX: y\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\nx",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\nContent-Length: 1\r\n\r\nx",
        b"what is this?\r\n\r\n",
    ],
)
def test_a_request_of_ambiguous_length_is_refused_and_nothing_after_it_is_read(
    server: Server, false: bytes
) -> None:
    with connected(server) as client:
        client.send(false + PING)
        answer = client.answer()
        assert answer.status == 400, answer
        assert b"\n" not in answer.body and json.loads(answer.body)["error"]
        assert client.answer().status == 0


def test_a_client_that_reads_nothing_does_not_delay_the_others(server: Server, red: bytes) -> None:
    with connected(server) as deaf:
        deaf.socket.settimeout(2)
        with pytest.raises(TimeoutError):
            while True:  # until both directions are full of answers nobody reads
                deaf.send(request(b"no image") * 100)
        assert server.invoke(red, Content_Type="image/jpeg").status == 200


def memory_peak(pid: int) -> int:
    """The largest resident set so far, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_png_of_a_gigapixel_is_refused_without_the_memory_for_it(
    server: Server, red: bytes
) -> None:
    side = 40_000
    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    pixels = zlib.compress(b"\0" * 20_000_000, 9)
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        check = zlib.crc32(name + data)
        png += len(data).to_bytes(4, "big") + name + data + check.to_bytes(4, "big")
    assert server.invoke(red, Content_Type="image/jpeg").status == 200
    before = memory_peak(server.worker())
    answer = server.invoke(png, Content_Type="image/png")
    assert answer.status == 400 and b"pixels" in answer.body
    assert memory_peak(server.worker()) - before < 50 * 2**20


def test_large_images_sent_together_are_all_answered_and_take_no_memory_of_the_server(
    trained_job: Path, red: bytes
) -> None:
    content = io.BytesIO()
    Image.new("RGBA", (4_000, 4_000), (9, 99, 199, 99)).save(content, "WEBP", lossless=True)
    with running_server(trained_job / "model", SAGEMAKER_GUNICORN_THREADS="5") as server:
        assert server.invoke(red, Content_Type="image/jpeg").status == 200
        before = memory_peak(server.worker())
        with ExitStack() as stack:
            clients = [stack.enter_context(connected(server)) for _ in range(4)]
            for client in clients:
                client.send(request(content.getvalue()))
            assert server.invoke(red, Content_Type="image/jpeg").status == 200
            assert {client.answer().status for client in clients} == {200}
        assert memory_peak(server.worker()) - before < 50 * 2**20


def test_an_image_beyond_the_servers_limit_of_pixels_is_refused(
    trained_job: Path, red: bytes
) -> None:
    with running_server(trained_job / "model", IMAGE_CLASSIFICATION_MAX_PIXELS="1000") as server:
        answer = server.invoke(red, Content_Type="image/jpeg")
    assert answer.status == 400 and b"at most 1000 pixels" in answer.body


def test_a_server_starts_with_any_limit_of_pixels(trained_job: Path, red: bytes) -> None:
    with running_server(trained_job / "model", IMAGE_CLASSIFICATION_MAX_PIXELS="1") as server:
        answer = server.invoke(red, Content_Type="image/jpeg")
    assert answer.status == 400 and b"at most 1 pixels" in answer.body


@pytest.mark.shared
def test_every_hard_image_gets_the_status_in_its_manifest(trained_job: Path, shared: Path) -> None:
    hard = shared / "data" / "hard"
    files = json.loads((hard / "manifest.json").read_text())["files"]
    expected = {"decode": {200}, "refuse": {400}, "either": {200, 400}}
    with running_server(trained_job / "model") as server:
        for entry in files:
            body = (hard / entry["file"]).read_bytes()
            answer = server.invoke(body, Content_Type="application/x-image")
            assert answer.status in expected[entry["expect"]], (entry, answer)
        assert server.get("/ping").status == 200
