"""The connections of a process: the bytes they hold are bounded, and idle ones make room."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from image_classification.errors import RequestError
from image_classification.serving.connection import Connection, Connections, Limits
from image_classification.serving.http import Head, Request


class Room:
    """Connections on a real listener, whose loop is turned by hand."""

    def __init__(self, body_memory: int, connections: int, read_seconds: float = 30) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.received: list[bytes] = []
        self.refused: list[int] = []
        self.is_full = False
        limits = Limits(
            connections, 100_000, body_memory, read_seconds=read_seconds, idle_seconds=30
        )
        self.connections = Connections(self.selector, limits, self)
        self.clients: list[socket.socket] = []

    def admit(self, head: Head) -> None:
        if self.is_full:
            raise RequestError(503, "full")

    def dispatch(self, connection: Connection, request: Request) -> None:
        self.received.append(request.body)
        self.connections.answer(connection, b"HTTP/1.1 204 No Content\r\n\r\n", closes=False)

    def note_refusal(self, connection: Connection, error: RequestError, sent_bytes: int) -> None:
        self.refused.append(error.status)

    def defer(self, call: Callable[..., None], *arguments: Any) -> None:
        call(*arguments)

    def call(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.listener.getsockname())
        self.clients.append(client)
        while not self.connections.accept(self.listener):
            pass
        client.sendall(data)
        self.turn()
        return client

    def turn(self) -> None:
        while events := self.selector.select(0.2):
            for key, _ in events:
                key.data(key.fileobj)

    def close(self) -> None:
        for sock in (*self.clients, self.listener):
            sock.close()
        self.turn()
        self.selector.close()


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room(body_memory=150_000, connections=3)
    yield made
    made.close()


def body(length: int, missing: int = 0) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + b"\0" * (length - missing)


def test_bodies_beyond_the_common_limit_are_503_until_others_are_answered(
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


def test_a_request_refused_by_its_head_holds_no_memory_and_its_body_is_drained(
    room: Room,
) -> None:
    room.is_full = True
    client = room.call(body(90_000, missing=90_000))
    answer = client.recv(1000)
    assert b" 503 " in answer and b"Connection: close" in answer and b"Retry-After" in answer
    client.sendall(b"\0" * 90_000)
    room.turn()
    assert room.refused == [503] and room.received == []
    assert len(room.connections) == 1
    room.is_full = False
    room.call(body(99_000))
    assert len(room.received[0]) == 99_000
    client.shutdown(socket.SHUT_WR)
    room.turn()
    assert client.recv(1) == b"" and len(room.connections) == 1


def test_the_connection_that_is_idle_longest_makes_room_for_a_new_one(room: Room) -> None:
    clients = [room.call() for _ in range(3)]
    clients[0].sendall(body(10))
    room.turn()
    assert room.connections.has_room()
    assert clients[1].recv(1) == b""
    assert len(room.connections) == 2


def test_connections_with_unfinished_requests_leave_no_room(room: Room) -> None:
    for _ in range(3):
        room.call(body(10, missing=1))
    assert not room.connections.has_room()
    assert len(room.connections) == 3


@pytest.fixture
def hasty_room() -> Iterator[Room]:
    made = Room(body_memory=150_000, connections=3, read_seconds=0.5)
    yield made
    made.close()


@pytest.mark.parametrize("start", [b"", b"POST / HTTP/1.1\r\n"], ids=["alone", "after a line"])
def test_empty_lines_do_not_extend_the_time_for_a_head(hasty_room: Room, start: bytes) -> None:
    client = hasty_room.call(b"\r\n" + start)  # each turn takes at least 0.2 s
    for _ in range(4):
        if len(hasty_room.connections):
            client.sendall(b"A: b\r\n" if start else b"\r\n")
            hasty_room.turn()
            hasty_room.connections.close_late()
    assert hasty_room.refused == ([408] if start else [])
    assert (b" 408 " in client.recv(100)) == bool(start)


def test_a_request_after_empty_lines_and_a_pause_is_answered(hasty_room: Room) -> None:
    client = hasty_room.call(body(10) + b"\r\n")  # some clients send CR LF after a body
    client.sendall(body(20) + b"\r\n")
    hasty_room.turn()
    assert [len(received) for received in hasty_room.received] == [10, 20]


def test_a_connection_with_only_empty_lines_makes_room_for_a_new_one(room: Room) -> None:
    for _ in range(3):
        room.call(b"\r\n")
    assert room.connections.has_room() and len(room.connections) == 2
