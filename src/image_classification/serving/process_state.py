"""What the arbiter sees of a server process, even one that hangs or is dead.

A process whose interpreter lock is never released can do nothing, and neither can a killed one. So
each process writes its signs of life and its account into memory that it shares with the arbiter.
While the user's code runs for a client, a Unix socket keeps a duplicate of the client's socket; the
arbiter can take it out (SCM_RIGHTS, unix(7)) and send the response.
"""

from __future__ import annotations

import mmap
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

BEATS, INCOMPLETE, UNANSWERED, SENDING, HAS_CLOSED, IS_LAST = range(6)
"""Positions in `ProcessState.numbers`: signs of life (none while the model loads); requests that
have arrived in part; accepted ones without a whole answer; those whose answer is being given to the
kernel (if the process dies then, nobody knows whether it was sent); 1 once the process has taken
its last connection; 1 if no other process can take its place."""

_ID_BYTES = 256
_FILES_PER_PLACE = 8  # a place takes two descriptors, of which connections need most


class ProcessState:
    """The state of one process, made before the fork so that both sides have it.

    Args:
        places: how many sockets can be deposited at once; fewer if there are few descriptors.

    Attributes:
        numbers: unsigned integers in shared memory; see `BEATS`. Only the process writes them.
        counting: held while a thread of the process changes a number.
    """

    def __init__(self, places: int = 0) -> None:
        self.numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self.counting = threading.Lock()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._places = [Place() for _ in range(min(places, files // _FILES_PER_PLACE))]
        self._free = list(self._places)

    @contextmanager
    def depositing(self, client: socket.socket, name: str) -> Iterator[Place | None]:
        """Let the arbiter hold the socket of the request `name` while the block runs.

        It yields the place, or None if there is none: the socket is then not held. Costs 15 µs.
        """
        place = self._free.pop() if self._free else None
        if place is None or not place.put(client, name):
            yield None
            return
        try:
            yield place
        finally:
            place.clear()
            self._free.append(place)

    def leave(self) -> None:
        """Close what only the process needs; the arbiter calls it after the fork."""
        for place in self._places:
            place.leave()

    def take(self) -> list[tuple[str, socket.socket]]:
        """Return (request, socket) of each deposit of a dead process, and close the places."""
        found = [taken for place in self._places for taken in place.take()]
        for place in self._places:
            place.close()
        self._places.clear()
        return found


class Place:
    """Holds one socket outside the process; the message with it is the name of its request."""

    def __init__(self) -> None:
        self._inner, self._outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inner.setblocking(False)
        self._outer.setblocking(False)

    def put(self, client: socket.socket, name: str) -> bool:
        """Deposit a socket; whether the kernel had room for it."""
        try:
            socket.send_fds(self._inner, [name.encode()[:_ID_BYTES]], [client.fileno()])
        except OSError:
            return False
        return True

    def clear(self) -> None:
        """Take the socket back, unless that has been done; from any thread."""
        for descriptor in self._receive()[1]:
            os.close(descriptor)

    def take(self) -> list[tuple[str, socket.socket]]:
        """Return (request, socket) of the deposit; an empty list without one."""
        name, descriptors = self._receive()
        return [(name.decode(errors="replace"), socket.socket(fileno=fd)) for fd in descriptors]

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            return socket.recv_fds(self._outer, _ID_BYTES, 1, socket.MSG_CMSG_CLOEXEC)[:2]
        except OSError:  # nothing is there
            return b"", []

    def leave(self) -> None:
        """Close the end that only the process needs."""
        self._inner.close()

    def close(self) -> None:
        """Close both ends."""
        self._inner.close()
        self._outer.close()
