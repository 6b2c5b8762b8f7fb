"""Attack 4: connections that send half a request, nothing, or too slowly, or do not read."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from adversary.flood import beside
from adversary.ordinary import ordinary_callers
from adversary.rows import Row
from adversary.setting import Setting, say
from adversary.target import GIB, Target, attacked
from adversary.wire import connect, post

_HALF = b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-"
_BODY = 16 << 20
_MADE = 1000  # connections a second, at most
_RENEWED = 50  # half-open connections a second
_READERS = 60  # that read nothing
_ASKED = 200  # requests that each of them sends
_UNFINISHED = 40
_LONG = 25.0  # seconds: longer than the time for a head


def attack(setting: Setting) -> Iterator[Row]:
    """Yield the pings and the ordinary clients beside each kind of connection."""
    size = setting.size
    seconds = _LONG if size.has_long else size.seconds
    whole = post(bytes(_BODY), "image/jpeg")
    kinds: list[tuple[str, int, Callable[[Crowd], None]]] = [
        (f"{size.half_open} half-open heads", size.half_open, lambda crowd: crowd.grow(_HALF)),
        (
            f"{size.half_open} connections without a byte",
            size.half_open,
            lambda crowd: crowd.grow(b""),
        ),
        (
            f"{size.silent} silent bodies of 16 MiB",
            size.silent,
            lambda crowd: crowd.grow(post(b"", "image/jpeg", length=_BODY)),
        ),
        (
            f"{_UNFINISHED} bodies of 16 MiB but for the end",
            _UNFINISHED,
            lambda crowd: crowd.grow(whole[:-1000]),
        ),
        (f"{size.silent} bodies of a byte a second", size.silent, Crowd.drip),
        (f"{_READERS} readers of nothing", _READERS, lambda crowd: crowd.ask(setting)),
    ]
    for name, count, behave in kinds:
        say(name)
        with attacked(setting.model, setting.work, limit=GIB) as target:
            worker = target.worker
            crowd = Crowd(target, count)
            with ordinary_callers(target.port, setting.photos) as seen:
                acting = threading.Thread(target=behave, args=(crowd,), daemon=True)
                acting.start()
                time.sleep(seconds)
                crowd.is_over.set()
                acting.join()
                crowd.close()
            ended = f", {target.kills()} kills" if target.kills() else ""
            ended += ", its process was replaced" if target.worker != worker else ""
        for row in beside(name, seen, setting):
            made = f"; {crowd.made} connections made{ended}"
            yield Row(
                row.attack, row.count, row.came + made, row.goal, bool(row.reached) and not ended
            )


class Crowd:
    """Connections that a number of bad callers hold.

    Attributes:
        is_over: set when they should stop.
        made: how many were made, those that the server closed included.
    """

    def __init__(self, target: Target, count: int) -> None:
        self._port, self._count = target.port, count
        self._open: list[socket.socket] = []
        self.is_over = threading.Event()
        self.made = 0

    def grow(self, data: bytes) -> None:
        """Hold the connections, each of which sends `data`; renew those that were closed."""
        few = _RENEWED // 10  # in a tenth of a second
        while not self.is_over.is_set():
            closed = [one for one in self._open if _is_closed(one)]
            for one in closed:
                one.close()
                self._open.remove(one)
            wanted = self._count - len(self._open)
            if not closed and not wanted:
                wanted = few
                for one in self._open[:wanted]:
                    one.close()
                del self._open[:wanted]
            for _ in range(wanted if self.made < self._count else min(wanted, few)):
                if self.is_over.is_set():
                    return
                self._add(data)
            self.is_over.wait(0.1)

    def drip(self) -> None:
        """Send a byte of each body a second."""
        self.grow_once(post(b"", "image/jpeg", length=_BODY))
        while not self.is_over.wait(1):
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.send(b"\xff")

    def grow_once(self, data: bytes) -> None:
        """Make the connections, each of which sends `data`."""
        while self.made < self._count and not self.is_over.is_set():
            self._add(data)

    def ask(self, setting: Setting) -> None:
        """Send many requests on each connection, and read no answer."""
        photo = next(setting.photos.glob("*.jpg")).read_bytes()
        verbose = post(photo, "image/jpeg", lines="Accept: application/json;verbose\r\n")
        wrong = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        self.grow_once(verbose + wrong * _ASKED)
        self.is_over.wait()

    def close(self) -> None:
        for one in self._open:
            one.close()

    def _add(self, data: bytes) -> None:
        self.made += 1
        time.sleep(1 / _MADE)
        try:
            one = connect(self._port, 2)
        except OSError:
            return
        self._open.append(one)
        one.setblocking(False)
        left = memoryview(data)
        end = time.monotonic() + 1
        while left and time.monotonic() < end:
            try:
                left = left[one.send(left) :]
            except BlockingIOError:
                time.sleep(0.005)
            except OSError:
                return


def _is_closed(connection: socket.socket) -> bool:
    """Whether the server has ended the connection, or refused what was sent and will."""
    try:
        connection.recv(1 << 16)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True
