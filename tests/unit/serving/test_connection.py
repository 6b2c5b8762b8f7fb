"""The connections of a process: what they hold together is bounded, and idle ones make room."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import Config

from image_classification.errors import RequestError
from image_classification.serving.connection import Connection, Front, Limits, Phase
from image_classification.serving.incoming import Received


class Room:
    """A front on a real listener, turned by hand."""

    def __init__(self, body_memory: int, connections: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.poller = selectors.DefaultSelector()
        self.received: list[bytes] = []
        self.refused: list[int] = []
        self.is_full = False
        limits = Limits(connections, 100_000, body_memory, read_seconds=30, idle_seconds=30)
        self.front = Front(
            self.poller,
            Config(),
            limits,
            self._head,
            self._request,
            self._refusal,
            lambda call, *a: call(*a),
        )
        self.callers: list[socket.socket] = []

    def _head(self, head: Any) -> None:
        if self.is_full:
            raise RequestError(503, "full")

    def _request(self, connection: Connection, received: Received) -> None:
        self.received.append(received.body)
        self.front.answer(connection, b"HTTP/1.1 204 No Content\r\n\r\n")

    def _refusal(self, connection: Connection, error: RequestError, size: int) -> None:
        self.refused.append(error.status)

    def call(self, data: bytes = b"") -> socket.socket:
        caller = socket.create_connection(self.listener.getsockname())
        self.callers.append(caller)
        while not self.front.accept(self.listener):
            pass
        caller.sendall(data)
        self.turn()
        return caller

    def turn(self) -> None:
        while events := self.poller.select(0.2):
            for key, _ in events:
                key.data(key.fileobj)

    def close(self) -> None:
        for sock in (*self.callers, self.listener):
            sock.close()
        self.turn()
        self.poller.close()


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room(body_memory=150_000, connections=3)
    yield made
    made.close()


def body(length: int, missing: int = 0) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + b"\0" * (length - missing)


def test_bodies_that_are_more_together_than_the_limit_are_503_until_others_are_done(
    room: Room,
) -> None:
    first = room.call(body(90_000, missing=1))
    second = room.call(body(90_000, missing=1))
    assert room.refused == [503] and b" 503 " in second.recv(100)
    small = room.call(body(1_000))
    assert len(room.received[0]) == 1_000 and b" 204 " in small.recv(100)
    first.sendall(b"\0")
    room.turn()
    assert len(room.received[1]) == 90_000
    first.sendall(body(90_000))
    room.turn()
    assert len(room.received) == 3 and room.refused == [503]


def test_a_request_that_is_refused_by_its_head_holds_nothing_and_its_body_is_drained(
    room: Room,
) -> None:
    room.is_full = True
    caller = room.call(body(90_000, missing=90_000))
    answer = caller.recv(1000)
    assert b" 503 " in answer and b"Connection: close" in answer and b"Retry-After" in answer
    caller.sendall(b"\0" * 90_000)
    room.turn()
    assert room.refused == [503] and room.received == []
    (connection,) = room.front.connections
    assert connection.held == 0 and connection.phase is Phase.LINGERING
    caller.shutdown(socket.SHUT_WR)
    room.turn()
    assert caller.recv(1) == b"" and not room.front.connections


def test_the_connection_that_idles_longest_makes_room_for_a_new_one(room: Room) -> None:
    callers = [room.call() for _ in range(3)]
    callers[0].sendall(body(10))
    room.turn()
    assert room.front.has_room()
    assert callers[1].recv(1) == b""
    assert len(room.front.connections) == 2


def test_connections_that_are_all_in_the_middle_of_a_request_leave_no_room(room: Room) -> None:
    for _ in range(3):
        room.call(body(10, missing=1))
    assert not room.front.has_room()
    assert len(room.front.connections) == 3
