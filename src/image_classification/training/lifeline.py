"""This process among those of its job: it ends, with the reason, when another one is lost."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from image_classification.contract import environment
from image_classification.contract.failure import describe, note_failure, report_failure
from image_classification.contract.paths import Cluster
from image_classification.errors import AlgorithmError, ImageClassificationError, UserError
from image_classification.training.group import meeting_host, place_of

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


BEAT_SECONDS = 3.0
SILENCE_SECONDS = 40.0
"""After which a host is taken for gone: the others then end well within a minute."""
ARRIVAL_SECONDS = 900.0
"""Within which all hosts must have begun: their data takes different times to come."""
GRACE_SECONDS = 5.0
"""For a process that notices by itself, in a sum, to end by itself."""
_REASON_CHARACTERS = 700  # of the 1,024 that a failure may have

_logger = logging.getLogger(__name__)


class HostLostError(Exception):
    """A host is gone; `code` is the exit code that follows: 2 where the user can mend it."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code

    def as_failure(self) -> ImageClassificationError:
        """The same, as the failure of this process."""
        return (UserError if self.code == UserError.exit_code else AlgorithmError)(str(self))


class Lifeline:
    """The watch of one process over those of the other hosts; the first of them is the center.

    Args:
        rank: place of this process among `hosts`.
        hosts: their names, each with its process where a host has several.
        address: name and TCP port of the first host.
        on_loss: called in the watching thread when a host is lost.
        on_stuck: called in it GRACE_SECONDS later, unless this process has ended the watch by then.
        silence: seconds without a line after which a host is lost.
        arrival: seconds within which every host must have come.

    Raises:
        UserError: the first host cannot listen at the port.
    """

    def __init__(
        self,
        rank: int,
        hosts: Sequence[str],
        address: tuple[str, int],
        on_loss: Callable[[HostLostError], None],
        on_stuck: Callable[[HostLostError], None],
        *,
        silence: float = SILENCE_SECONDS,
        arrival: float = ARRIVAL_SECONDS,
    ) -> None:
        self._rank, self._hosts, self._address = rank, hosts, address
        self._on_loss, self._on_stuck = on_loss, on_stuck
        self._silence, self._arrival = silence, arrival
        self._selector = selectors.DefaultSelector()
        self._peers: dict[int, LineConnection] = {}
        self._done: set[int] = set()
        self._closing, self._noticed = threading.Event(), threading.Event()
        self._last_line = "end"
        self._lost: HostLostError | None = None
        self._listener = _listen(address[1]) if rank == 0 else None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()

    def lost(self, seconds: float) -> HostLostError | None:
        """The host that was lost, if one is within so many seconds."""
        self._noticed.wait(seconds)
        return self._lost

    def close(self, failure: BaseException | None = None) -> None:
        """End the watch; the other hosts hear that all went well, or of the failure."""
        if failure is not None and self._lost is None:
            reason, code = describe(failure)
            if isinstance(failure, SystemExit):
                reason = "it was stopped before training had begun"
            said = f"host {self._hosts[self._rank]} ended: {reason}"[:_REASON_CHARACTERS]
            self._last_line = f"lost {code} {said}"
        self._closing.set()
        self._thread.join(GRACE_SECONDS)

    def _watch(self) -> None:
        try:
            if self._listener is not None:
                self._selector.register(self._listener, selectors.EVENT_READ)
            else:
                self._connect()
            last_beat = 0.0
            while not self._closing.is_set():
                self._hear()
                if time.monotonic() - last_beat >= BEAT_SECONDS:
                    last_beat = time.monotonic()
                    self._say("beat")
        except HostLostError as lost:
            self._lost = lost
            self._last_line = f"lost {lost.code} {lost}"
            self._on_loss(lost)
            self._noticed.set()
            self._say(self._last_line)
            if not self._closing.wait(GRACE_SECONDS):
                self._on_stuck(lost)
        finally:
            self._say(self._last_line)
            for peer in self._peers.values():
                peer.close()
            if self._listener is not None:
                self._listener.close()
            self._selector.close()

    def _connect(self) -> None:
        """Reach the first host, which may begin later than this one."""
        while not self._closing.is_set():
            try:
                connection = socket.create_connection(self._address, timeout=5.0)
            except OSError as error:  # also a name that does not resolve yet
                if time.monotonic() - self._began > self._arrival:
                    raise HostLostError(
                        f"host {self._hosts[0]} was not reached at port {self._address[1]} within "
                        f"{self._arrival:.0f} s ({error}): did it start, and may the hosts of "
                        "this job reach one another?"
                    ) from error
                self._closing.wait(0.5)
                continue
            self._peers[0] = self._registered(connection)
            self._say(f"host {self._rank}")
            _logger.info("Reached the first host, %s", self._hosts[0])
            return

    def _registered(self, connection: socket.socket) -> LineConnection:
        peer = LineConnection(connection)
        self._selector.register(connection, selectors.EVENT_READ, peer)
        return peer

    def _hear(self) -> None:
        """Wait a moment for lines, and take them; HostLostError if a host is gone."""
        for key, _ in self._selector.select(0.2):
            if key.data is not None:
                self._take(key.data)
            elif self._listener is not None:
                with suppress(OSError):
                    self._registered(self._listener.accept()[0])
        for rank, peer in self._peers.items():
            if rank not in self._done and peer.silent_seconds > self._silence:
                raise HostLostError(
                    f"host {self._hosts[rank]} has not answered for {self._silence:.0f} s: it "
                    "hangs, or is out of reach"
                )
        absent = set(range(1, len(self._hosts))) - set(self._peers) if self._rank == 0 else set()
        if absent and time.monotonic() - self._began > self._arrival:
            raise HostLostError(
                f"host {self._hosts[min(absent)]} did not come within {self._arrival:.0f} s: did "
                "it start, and may the hosts of this job reach one another?"
            )

    def _take(self, peer: LineConnection) -> None:
        """The lines of a connection, which on the first host may be a stranger's."""
        rank = next((rank for rank, known in self._peers.items() if known is peer), None)
        try:
            lines = peer.receive()
        except EOFError:
            self._selector.unregister(peer.socket)
            if rank is None:
                peer.close()
            elif rank not in self._done:
                raise HostLostError(
                    f"host {self._hosts[rank]} ended without a word: it was killed, perhaps for "
                    "want of memory, or its machine failed"
                ) from None
            return
        for line in lines:
            word, _, rest = line.partition(" ")
            if rank is None:
                rank = self._introduced(peer, word, rest)
            elif word == "end":
                self._done.add(rank)
            elif word == "lost":
                code, _, reason = rest.partition(" ")
                raise HostLostError(reason, int(code == "2") + 1)

    def _introduced(self, peer: LineConnection, word: str, rest: str) -> int | None:
        known = {str(rank): rank for rank in range(1, len(self._hosts))}
        rank = known.get(rest) if word == "host" else None
        if self._rank != 0 or rank is None or rank in self._peers:
            return None
        self._peers[rank] = peer
        return rank

    def _say(self, line: str) -> None:
        for rank, peer in self._peers.items():
            if rank not in self._done:
                peer.send(line)


def _listen(port: int) -> socket.socket:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        return socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
    except (OSError, OverflowError) as error:
        raise UserError(
            f"the hosts of this job watch each other through port {port} of the first host, which "
            f"it cannot open ({error}): set MASTER_PORT so that it and the next port are free"
        ) from error


@contextmanager
def watched(cluster: Cluster, failure_file: Path | None) -> Iterator[None]:
    """In this block the process ends, with the reason in `failure_file`, when a host is lost.

    Raises:
        ImageClassificationError: of a host that was lost, where this process failed for that.
    """
    rank, count = place_of(cluster)
    if len(cluster.hosts) * count == 1:
        yield
        return

    def note(lost: HostLostError) -> None:
        """At once: NCCL may abort the process when it loses a peer."""
        note_failure(lost.as_failure(), failure_file)

    def end(lost: HostLostError) -> None:
        """The main thread may be in a sum that never returns."""
        code = report_failure(lost.as_failure(), failure_file)
        sys.stdout.flush()
        os._exit(code)

    names = [
        host if count == 1 else f"{host} (process {local + 1} of {count})"
        for host in cluster.hosts
        for local in range(count)
    ]
    address = meeting_host(cluster), environment.MASTER_PORT.read_integer(1) + 1
    lifeline = Lifeline(rank, names, address, note, end)
    try:
        yield
    except AlgorithmError as error:  # of a sum: why did the other host end?
        lost = lifeline.lost(GRACE_SECONDS / 2)
        lifeline.close(error)
        if lost is not None:
            raise lost.as_failure() from error
        raise
    except BaseException as error:
        lifeline.close(error)
        raise
    lifeline.close()
    if lifeline.lost(0.0) is not None and failure_file is not None:
        failure_file.unlink(missing_ok=True)  # too late to matter: this process has done its part
