"""A minute of every kind of request does not grow the server's memory."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import pytest

from tests.contract.jobs import running_server
from tests.contract.raw_http import Client, chunked_head, connected, request

SECONDS = 60


@pytest.mark.slow
def test_memory_is_flat_under_good_bad_large_and_broken_requests(
    trained_job: Path, small_channels: dict[str, Path]
) -> None:
    red = (small_channels["validation"] / "red" / "red000.jpg").read_bytes()
    good = request(red)
    bad = [
        request(b"no image"),
        request(red[: len(red) // 2]),
        request(b"\0" * 900_000),
        chunked_head() + f"{len(red):x}\r\n".encode() + red + b"\r\n0\r\n\r\n",
    ]
    stop = threading.Event()
    statuses: list[int] = []

    def ask(bodies: list[bytes]) -> None:
        for body in itertools.cycle(bodies):
            with connected(server) as client:
                for _ in range(20):
                    client.send(body)
                    statuses.append(client.answer().status)
                    if stop.is_set():
                        return

    def break_off() -> None:
        while not stop.is_set():
            for half in (good[:50], good[:-10], request(length=20_000_000), b"\r\n\r\nx\r\n\r\n"):
                client = Client(server)
                client.send(half)
                client.close()
            stop.wait(0.05)

    def resident() -> int:
        return int(Path(f"/proc/{server.worker()}/statm").read_text().split()[1]) * 4096

    with running_server(
        trained_job / "model", MAX_CONTENT_LENGTH="1000000", IMAGE_CLASSIFICATION_METRICS="true"
    ) as server:
        calls = [threading.Thread(target=ask, args=([good],)) for _ in range(4)]
        calls += [threading.Thread(target=ask, args=(bad,)) for _ in range(2)]
        calls += [threading.Thread(target=break_off)]
        for call in calls:
            call.start()
        time.sleep(SECONDS / 3)
        worker, before = server.worker(), resident()
        time.sleep(SECONDS * 2 / 3)
        after = resident()
        stop.set()
        for call in calls:
            call.join()
        assert server.worker() == worker
        files = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    assert set(statuses) == {200, 400} and statuses.count(200) > 100
    assert after - before < 16 * 2**20, (before, after)
    assert files < 60
