"""A TCP connection that carries short lines of text and never makes its process wait."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

_MOST_BYTES = 4096
"""Of a line: whoever sends a longer one is none of ours."""


class LineConnection:
    """Lines to and from another process; the socket is closed by `close`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._rest = b""
        self._last_heard = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Since anything came."""
        return time.monotonic() - self._last_heard

    def send(self, line: str) -> None:
        """Send a line, or drop it where the connection is broken or takes no more."""
        with suppress(OSError):
            self.socket.send(" ".join(line.splitlines()).encode("utf-8", "replace") + b"\n")

    def receive(self) -> list[str]:
        """The whole lines that have come.

        Raises:
            EOFError: the other side has closed or broken the connection, or sends no lines.
        """
        try:
            content = self.socket.recv(_MOST_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            content = b""
        if not content:
            raise EOFError
        self._last_heard = time.monotonic()
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > _MOST_BYTES:
            raise EOFError
        return [line.decode("utf-8", "replace") for line in lines]

    def close(self) -> None:
        """Close the socket; what was sent still arrives."""
        self.socket.close()
