"""The connections of a process: the bytes they hold are bounded, and idle ones make room."""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from image_classification.errors import RequestError
from image_classification.serving import connections
from image_classification.serving.connection import Connection
from image_classification.serving.connections import Connections, Limits
from image_classification.serving.http import Head, Request

CHUNKS = "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;a=b\r\nc\r\n0\r\n\r\n"


class Room:
    """Connections on a real listener, whose loop is turned by hand."""

    def __init__(self, body_memory: int, connections: int, read_seconds: float = 30) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.received: list[bytes] = []
        self.refused: list[int] = []
        self.is_full = self.works = False
        limits = Limits(
            connections, 100_000, body_memory, read_seconds=read_seconds, idle_seconds=30
        )
        self.connections = Connections(self.selector, limits, self)
        self.clients: list[socket.socket] = []
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"

    def admit(self, head: Head) -> None:
        if self.is_full:
            raise RequestError(503, "full")

    def dispatch(self, connection: Connection, request: Request) -> None:
        self.received.append(request.body)
        if self.works:  # as a thread does that has not finished
            return
        self.connections.answer(connection, self.answer, closes=False)

    def note_refusal(self, connection: Connection, error: RequestError, sent_bytes: int) -> None:
        self.refused.append(error.status)

    def defer(self, call: Callable[..., None], *arguments: Any) -> None:
        call(*arguments)

    def call(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.listener.getsockname())
        client.settimeout(5)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients.append(client)
        while not self.connections.accept(self.listener):
            pass
        client.sendall(data)
        self.turn()
        return client

    def turn(self, seconds: float = 0.1) -> None:
        while events := self.selector.select(seconds):
            for key, _ in events:
                key.data(key.fileobj)

    def close(self) -> None:
        for sock in (*self.clients, self.listener):
            sock.close()
        for connection in list(self.connections._open):
            self.connections._close(connection)
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
    room.call(body(10))
    assert clients[1].recv(1) == b"" and len(room.received) == 2
    assert len(room.connections) == 3


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed the connection; reads what it has sent."""
    client.settimeout(0.01)
    try:
        while client.recv(10_000):
            pass
    except TimeoutError:
        return False
    return True


def test_the_slowest_half_sent_request_makes_room_for_a_new_one(room: Room) -> None:
    slow = room.call(b"POST / HTTP/1.1\r\nHost")
    others = [room.call(body(10, missing=1)) for _ in range(2)]
    room.call(body(10))
    assert b" 503 " in slow.recv(1000) and is_closed(slow)
    assert len(room.received) == 1 and not any(map(is_closed, others))


def test_connections_whose_requests_are_worked_on_make_room_for_nobody_but_a_ping_gets_in(
    room: Room,
) -> None:
    room.works = True
    busy = [room.call(body(10)) for _ in range(3)]
    room.works = False
    for _ in range(3):
        assert b" 204 " in room.call(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").recv(1000)
        time.sleep(0.5)  # only then is the connection of an answered client given to another
    assert not any(map(is_closed, busy)) and len(room.connections) == 4


def test_a_request_that_has_arrived_but_was_not_read_yet_is_never_dropped_for_a_new_one(
    room: Room,
) -> None:
    clients = [room.call() for _ in range(3)]
    clients[0].sendall(body(10))  # it is idle longest, and the loop has not turned since
    room.call()
    assert len(room.received) == 1 and b" 204 " in clients[0].recv(1000)
    assert is_closed(clients[1])


@pytest.fixture
def roomy() -> Iterator[Room]:
    made = Room(body_memory=100_000_000, connections=3)
    yield made
    made.close()


def test_a_client_that_takes_no_answer_makes_room_although_it_has_sent_more(roomy: Room) -> None:
    room = roomy
    room.answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"\0" * 8_000_000
    for client in [room.call(body(10)) for _ in range(3)]:
        client.sendall(body(10))
    room.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    for _ in range(3):
        assert b" 204 " in room.call(body(10)).recv(1000)
    assert len(room.connections) <= 4


def test_many_silent_clients_at_once_do_not_keep_a_request_waiting(room: Room) -> None:
    for _ in range(6):
        room.call()
        assert b" 204 " in room.call(body(10)).recv(1000)
    assert len(room.connections) <= 4


@pytest.fixture
def hasty_room() -> Iterator[Room]:
    made = Room(body_memory=150_000, connections=3, read_seconds=0.5)
    yield made
    made.close()


@pytest.mark.parametrize("start", [b"", b"POST / HTTP/1.1\r\n"], ids=["alone", "after a line"])
def test_empty_lines_do_not_extend_the_time_for_a_head(hasty_room: Room, start: bytes) -> None:
    client = hasty_room.call(b"\r\n" + start)  # each turn takes at least 0.1 s
    for _ in range(8):
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
    assert b" 204 " in room.call(body(10)).recv(1000) and len(room.connections) <= 3


def test_silent_bodies_that_fill_the_memory_are_dropped_for_one_that_arrives_at_once(
    room: Room,
) -> None:
    silent = [room.call(body(70_000, missing=1)) for _ in range(2)]
    time.sleep(1)
    brisk = room.call(body(50_000))
    assert b" 204 " in brisk.recv(1000) and room.refused == [503]
    assert b" 503 " in silent[0].recv(1000) and not is_closed(silent[1])


def test_large_bodies_that_stop_halfway_leave_room_for_smaller_ones() -> None:
    room = Room(body_memory=400_000, connections=20)
    try:
        for _ in range(8):
            room.call(body(100_000, missing=1))
        assert room.refused == [503] * 6  # two of the largest always fit
        for _ in range(8):
            room.call(body(20_000, missing=1))
        assert room.refused == [503] * 6
        assert b" 204 " in room.call(body(1_000)).recv(1000)
    finally:
        room.close()


def test_a_body_that_drips_is_dropped_before_one_that_arrives_faster(room: Room) -> None:
    fast, slow = room.call(body(90_000, missing=85_000)), room.call(body(90_000, missing=50_000))
    for _ in range(6):
        slow.sendall(b"\0" * 500)
        time.sleep(0.15)
        fast.sendall(b"\0" * 14_000)
        room.turn(0.05)
    assert b" 204 " in room.call(body(50_000)).recv(1000)
    assert b" 503 " in slow.recv(1000) and not is_closed(fast)


def test_a_body_that_stops_is_late_however_fast_it_was_before(hasty_room: Room) -> None:
    client = hasty_room.call(body(99_000, missing=1))  # in all, 1.5 s at the lowest rate
    for _ in range(8):
        hasty_room.turn()
        hasty_room.connections.close_late()
    assert hasty_room.refused == [408] and b" 408 " in client.recv(1000)


@pytest.fixture
def deaf_room(room: Room, monkeypatch: pytest.MonkeyPatch) -> Room:
    """Answers have 8 MB, more than a socket takes from who reads nothing, and 0.5 s."""
    monkeypatch.setattr(connections, "_SEND_SECONDS", 0.5)
    room.answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"\0" * 8_000_000
    return room


def test_a_client_that_sips_its_answer_is_cut_off(
    deaf_room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    client = deaf_room.call(body(10))
    for _ in range(10):
        if len(deaf_room.connections):
            client.recv(2000)
            deaf_room.turn(0.05)
            deaf_room.connections.close_late()
    assert len(deaf_room.connections) == 0
    assert "A client read its response too slowly, closed" in caplog.text


def test_a_client_that_reads_on_gets_an_answer_that_takes_longer_than_the_patience(
    deaf_room: Room,
) -> None:
    client = deaf_room.call(body(10))
    taken, begun = 0, time.monotonic()
    while taken < len(deaf_room.answer):
        taken += len(client.recv(100_000))
        deaf_room.turn(0.02)
        deaf_room.connections.close_late()
    assert time.monotonic() - begun > 0.5 and len(deaf_room.connections) == 1


def test_an_answer_that_nobody_takes_counts_as_held_until_its_client_is_cut_off(
    deaf_room: Room,
) -> None:
    client = deaf_room.call(body(10))
    early = deaf_room.call(body(99_000))
    assert b" 503 " in early.recv(1000)
    time.sleep(1)
    deaf_room.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert b" 204 " in deaf_room.call(body(99_000)).recv(1000)
    assert is_closed(client)


def test_a_client_that_has_only_nothing_more_to_send_is_not_gone(room: Room) -> None:
    room.works = True
    client = room.call()
    client.sendall(body(10))
    client.shutdown(socket.SHUT_WR)
    room.turn()
    (connection,) = room.connections._open
    time.sleep(0.3)  # the kernel knows when, however late it is asked
    assert not connection.is_gone()
    room.connections.answer(connection, room.answer, closes=False)
    assert b" 204 " in client.recv(1000)
    room.turn()
    assert len(room.connections) == 0


@pytest.mark.parametrize("way", ["closes", "is reset"])
def test_a_client_that_gives_up_after_a_while_is_gone(room: Room, way: str) -> None:
    room.works = True
    client = room.call(body(10))
    (connection,) = room.connections._open
    time.sleep(0.3)
    assert not connection.is_gone()
    if way == "is reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    time.sleep(0.05)
    assert connection.is_gone() and connection.is_gone()


@pytest.mark.parametrize(("part", "cut"), [("head", 20), ("body", -1)])
def test_a_request_that_ends_too_early_is_400_to_a_client_that_reads_on(
    room: Room, part: str, cut: int
) -> None:
    client = room.call(body(10)[:cut])
    client.shutdown(socket.SHUT_WR)
    room.turn()
    answer = client.recv(1000)
    assert b" 400 " in answer and part.encode() in answer and room.refused == [400]
    assert len(room.connections) == 0


def test_100_continue_is_sent_for_a_body_that_is_awaited_and_taken_and_for_no_other(
    room: Room,
) -> None:
    expects = body(50, missing=50).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    client = room.call(expects)
    assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"\0" * 50 + expects + b"\0" * 50)
    room.turn()
    assert client.recv(1000) == room.answer * 2
    old = room.call(expects.replace(b"HTTP/1.1", b"HTTP/1.0"))
    old.sendall(b"\0" * 50)
    room.turn()
    assert old.recv(1000) == room.answer
    assert room.call(expects.replace(b"50", b"5000000")).recv(1000).startswith(b"HTTP/1.1 413")
    room.is_full = True
    assert room.call(expects).recv(1000).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("text", ["Content-Length: 3\r\n\r\nabc", CHUNKS], ids=["sized", "chunks"])
def test_a_request_that_expects_100_continue_is_answered_wherever_it_is_split(
    room: Room, text: str
) -> None:
    whole = f"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{text}".encode()
    client = room.call()
    for cut in range(1, len(whole)):
        client.sendall(whole[:cut])
        room.turn(0.002)
        client.sendall(whole[cut:])
        room.turn(0.002)
        answer = client.recv(1000)
        assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n") == room.answer, cut
    assert room.received == [b"abc"] * (len(whole) - 1)


def test_a_process_without_files_left_takes_the_next_connection_in_the_place_of_another(
    room: Room,
) -> None:
    idle = room.call()

    class Full:
        def accept(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    assert not room.connections.accept(Full()) and is_closed(idle)
