"""Log lines never wait for their reader, and all of them reach one that reads."""

from __future__ import annotations

import logging
import os
import pty
import socket
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import pytest

from image_classification.serving import log_output
from image_classification.serving.log_output import LogHandler, LogOutput

LINE = "x" * 99


def of_a_pipe() -> tuple[int, int]:
    return os.pipe()


def of_a_pipe_of_another_user() -> tuple[int, int]:
    return os.pipe()


def of_a_socket() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def of_a_terminal() -> tuple[int, int]:
    return pty.openpty()


KINDS = [of_a_pipe, of_a_pipe_of_another_user, of_a_socket, of_a_terminal]


@pytest.fixture(params=KINDS, ids=lambda kind: str(kind.__name__))
def ends(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[int, LogOutput]]:
    """A descriptor to read from, and the output to it."""
    make: Callable[[], tuple[int, int]] = request.param
    reader, writer = make()
    if make is of_a_pipe_of_another_user:
        monkeypatch.setattr(log_output, "_OWN_FILE", "/nowhere/{}")
    with FileIO(writer, "wb") as stream:
        output = LogOutput(stream)  # type: ignore[arg-type]
        yield reader, output
        del output
    os.close(reader)


def read(fd: int, end: str) -> list[str]:
    """The lines up to the one that is `end`."""
    text = b""
    while not text.replace(b"\r", b"").endswith(f"{end}\n".encode()):
        text += os.read(fd, 1 << 16)
    return text.decode().split()


def test_a_log_that_nobody_reads_holds_up_nobody_and_the_lost_lines_are_counted(
    ends: tuple[int, LogOutput],
) -> None:
    fd, output = ends

    def write() -> None:
        for _ in range(10_000):
            output.write(LINE)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(30)
    assert not writing.is_alive()
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(0.001):
            output.send_waiting()
        output.write("end")
        output.drain()

    going_on = threading.Thread(target=go_on)
    going_on.start()
    text = b""
    while b"lost" not in text:
        text += os.read(fd, 1 << 16)
    done.set()
    while not text.replace(b"\r", b"").endswith(b"end\n"):
        text += os.read(fd, 1 << 16)
    going_on.join()
    *lines, notice, _ = text.decode().split("\n")[:-1]
    kept = [line.strip() for line in lines]
    assert set(kept) == {LINE} and len(kept) > 4000
    assert notice.startswith(f"{10_000 - len(kept)} log lines were lost")


def test_all_lines_reach_a_reader_in_order(ends: tuple[int, LogOutput]) -> None:
    fd, output = ends
    sent = [f"{number}" for number in range(3000)]

    def write() -> None:
        for line in sent:
            output.write(line)
        output.drain()

    writing = threading.Thread(target=write)
    writing.start()
    assert read(fd, sent[-1]) == sent
    writing.join()


def test_the_users_code_may_close_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "log"
    stream = path.open("w")
    output = LogOutput(stream)
    stream.close()
    output.write("later")
    assert path.read_text() == "later\n"


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_a_stream_nothing_fails(stream: str | None, tmp_path: Path) -> None:
    closed = (tmp_path / "log").open("w")
    closed.close()
    output = LogOutput(closed if stream else None)
    output.write("nobody reads it")
    output.drain()


def test_a_reader_that_has_gone_costs_only_the_lines() -> None:
    reader, writer = os.pipe()
    with FileIO(writer, "wb") as stream:
        output = LogOutput(stream)  # type: ignore[arg-type]
        os.close(reader)
        for _ in range(3):
            output.write(LINE)
        output.drain()


def test_a_record_that_cannot_be_formatted_is_one_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        handler = LogHandler(LogOutput(stream))
    handler.handle(logging.LogRecord("a", 20, "a", 1, "%d images \ud800", ("three",), None))
    handler.handle(logging.LogRecord("a", 20, "a", 1, "\ud800", (), None))
    assert "cannot be formatted" in (tmp_path / "log").read_text().splitlines()[0]
    assert (tmp_path / "log").read_text().splitlines()[1] == "\\ud800"
