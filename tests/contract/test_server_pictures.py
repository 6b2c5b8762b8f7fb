"""Pictures that cost much more than they weigh, sent to a real server."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from image_classification.serving.isolation import IS_SUPPORTED
from tests.contract.jobs import Answer, Server, running_server
from tests.contract.raw_http import connected, request

TICKS = os.sysconf("SC_CLK_TCK")


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def scans(frame: int, count: int, side: int = 4000) -> bytes:
    """A JPEG of three components with `count` empty scans, each of which visits every block."""
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    tables = segment(0xC4, b"\x00\x01" + bytes(15) + b"\0")
    tables += segment(0xC4, b"\x10\x01\x01" + bytes(14) + b"\0\xe0")
    first, last = (0, 0) if frame == 0xC2 else (0, 63)
    parts = [segment(0xDA, bytes((1, number, 0, first, last, 0))) for number in (1, 2, 3)]
    if frame == 0xC2:
        first, last = 1, 63
    parts += [segment(0xDA, bytes((1, 1, 0, first, last, 0)))] * count
    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    head += segment(frame, struct.pack(">BHHB", 8, side, side, 3) + components) + tables
    return head + b"".join(parts) + b"\xff\xd9"


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, color: int = 2, extra: bytes = b"") -> bytes:
    bytes_per_row = 1 + width * {0: 1, 2: 3, 6: 4}[color]
    pixels = zlib.compress(bytes(bytes_per_row * height), 1)
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content.getvalue()


HOSTILE = {
    "sequential JPEG of 3000 scans": scans(0xC0, 3000),
    "arithmetic JPEG of 60 scans": scans(0xC9, 60),
    "arithmetic JPEG of 3000 scans": scans(0xC9, 3000),
    "progressive JPEG of 3000 scans": scans(0xC2, 3000),
    "progressive JPEG of 90 scans": scans(0xC2, 90),
    "progressive arithmetic JPEG": scans(0xCA, 90),
    "PNG of 64 megapixels": png(8000, 8000),
    "PNG of a side of a million": png(1_000_000, 60, color=0),
    "WEBP of 64 megapixels": saved(
        Image.new("RGBA", (8000, 8000), (1, 2, 3, 4)), "WEBP", lossless=True, method=0
    ),
}


@pytest.fixture(scope="module")
def server(trained_job: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("pictures") / "log"
    with running_server(trained_job / "model", log=log) as started:
        yield started
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def ordinary() -> dict[str, bytes]:
    image = Image.linear_gradient("L").convert("RGB")
    return {
        "jpeg": saved(image, "JPEG"),
        "progressive": saved(image, "JPEG", progressive=True),
        "png": saved(image, "PNG"),
        "webp": saved(image, "WEBP"),
        "gif": saved(image, "GIF"),
        "bmp": saved(image, "BMP"),
    }


def invoke(server: Server, body: bytes) -> Answer:
    return server.invoke(body, Content_Type="application/x-image")


def descendants(pid: int) -> dict[int, str]:
    """The processes below `pid` and their names."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found[int(child)] = Path(f"/proc/{child}/comm").read_text().strip()
        found |= descendants(int(child))
    return found


def cpu_seconds(server: Server) -> float:
    """Of the server process, what it starts, and what has ended there."""
    total = 0
    for pid in (server.worker(), *descendants(server.worker())):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / TICKS


def test_ordinary_pictures_of_every_format_are_answered(
    server: Server, ordinary: dict[str, bytes]
) -> None:
    for name, body in ordinary.items():
        assert invoke(server, body).status == 200, name
    if IS_SUPPORTED:
        assert "decoder" in descendants(server.worker()).values()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.skipif(not IS_SUPPORTED, reason="reads /proc")
def test_a_hostile_picture_is_refused_by_name_for_little_cpu_time(
    server: Server, name: str
) -> None:
    before = cpu_seconds(server)
    answer = invoke(server, HOSTILE[name])
    assert answer.status in (200, 400), answer
    if answer.status == 400:
        assert any(word in answer.body for word in (b"at most", b"took more", b"pixels")), answer
    assert cpu_seconds(server) - before < 3


@pytest.mark.skipif(not IS_SUPPORTED, reason="needs processes with limits")
def test_hostile_pictures_delay_nobody_and_each_is_refused_by_name(
    server: Server, ordinary: dict[str, bytes]
) -> None:
    worker = server.worker()
    statuses: list[int] = []
    is_over = threading.Event()

    def ping() -> None:
        while not is_over.is_set():
            statuses.append(server.get("/ping").status)
            time.sleep(0.02)

    pinging = threading.Thread(target=ping)
    pinging.start()
    with ExitStack() as stack:
        clients = [(name, stack.enter_context(connected(server))) for name in HOSTILE for _ in "12"]
        for name, client in clients:
            client.send(request(HOSTILE[name]))
        for name, body in ordinary.items():
            assert invoke(server, body).status == 200, name
        answers = {name: client.answer().status for name, client in clients}
    is_over.set()
    pinging.join()
    assert set(answers.values()) <= {200, 400}, answers
    assert set(statuses) == {200}
    assert server.worker() == worker


@pytest.mark.skipif(not IS_SUPPORTED, reason="needs processes with limits")
def test_a_lower_limit_of_cpu_time_or_memory_is_a_400_that_names_the_setting(
    trained_job: Path, ordinary: dict[str, bytes]
) -> None:
    large = saved(Image.effect_noise((3000, 3000), 99), "PNG")
    settings = {"IMAGE_CLASSIFICATION_PICTURE_MEMORY_MB": "40"}
    with running_server(trained_job / "model", **settings) as server:
        answer = invoke(server, large)
        assert answer.status == 400 and b"IMAGE_CLASSIFICATION_PICTURE_MEMORY_MB" in answer.body
        assert {invoke(server, body).status for body in ordinary.values()} == {200}


@pytest.mark.skipif(not IS_SUPPORTED, reason="needs processes with limits")
def test_the_decoding_processes_end_with_the_server(
    trained_job: Path, ordinary: dict[str, bytes]
) -> None:
    with running_server(trained_job / "model") as server:
        assert invoke(server, ordinary["png"]).status == 200
        started = descendants(server.worker())
        assert sorted(started.values()) == ["decoder", "forkserver"]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


@pytest.mark.skipif(not IS_SUPPORTED, reason="needs processes with limits")
def test_a_killed_idle_process_costs_nothing_and_a_killed_forkserver_one_request(
    trained_job: Path, ordinary: dict[str, bytes]
) -> None:
    with running_server(trained_job / "model") as server:
        assert invoke(server, ordinary["png"]).status == 200
        worker = server.worker()
        by_name = {name: pid for pid, name in descendants(worker).items()}
        os.kill(by_name["decoder"], 9)
        time.sleep(0.2)
        assert invoke(server, ordinary["png"]).status == 200
        assert server.worker() == worker
        os.kill(by_name["forkserver"], 9)
        time.sleep(0.5)  # its children end with it
        # The process is replaced at once; requests in the meantime get a 503 with Retry-After.
        assert invoke(server, ordinary["png"]).status in {200, 503}
        while server.worker() == worker:
            time.sleep(0.05)
        assert invoke(server, ordinary["png"]).status == 200
