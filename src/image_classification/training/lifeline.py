"""The lifeline between the processes of a job: each one ends, with the reason, if another is lost.

Every process has a TCP connection to the first one. They exchange lines of text: `host <rank>` as
the introduction, `beat` every few seconds, at the end `end`, or `lost <exit code> <reason>` after a
failure. `LineConnection` carries the lines, `Lifeline` watches them in a thread, and a job runs in
the block of `watched`.
"""

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
from image_classification.training.group import meeting_host, rank_of

_MOST_BYTES = 4096
"""The limit for a line: a stranger may send more."""


class LineConnection:
    """Exchanges lines with another process. `close` closes the socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._rest = b""
        self._last_heard = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last data arrived."""
        return time.monotonic() - self._last_heard

    def send(self, line: str) -> None:
        """Send a line, or drop it if the connection is broken or its buffer full."""
        with suppress(OSError):
            self.socket.send(" ".join(line.splitlines()).encode("utf-8", "replace") + b"\n")

    def receive(self) -> list[str]:
        """Return the complete lines that have arrived.

        Raises:
            EOFError: the connection is closed or broken, or the other side does not send lines.
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
        """Close the socket; lines already sent still arrive."""
        self.socket.close()


BEAT_SECONDS = 3.0
SILENCE_SECONDS = 40.0
"""After this silence a host counts as lost; the others then end well within a minute."""
ARRIVAL_SECONDS = 900.0
"""Within this time all hosts must connect: their downloads of the data take different times."""
GRACE_SECONDS = 5.0
"""The time for a process to notice the loss itself, in a sum over the ranks, and end."""
_REASON_CHARACTERS = 700  # of the 1,024 that a failure may have

_logger = logging.getLogger(__name__)


class HostLostError(Exception):
    """A host is lost; `code` is the exit code of the job: 2 if the user can fix the cause."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code

    def as_failure(self) -> ImageClassificationError:
        """Return this error as the failure of this process."""
        return (UserError if self.code == UserError.exit_code else AlgorithmError)(str(self))


class Lifeline:
    """Watches the other processes of a job; the first one is connected to all others.

    Args:
        rank: index of this process in `hosts`.
        hosts: names of all processes' hosts; with several processes per host also the process.
        address: name and TCP port of the first host.
        on_loss: called in the watching thread when a host is lost.
        on_stuck: called in that thread GRACE_SECONDS later, unless `close` has been called.
        silence: seconds without a line after which a host is lost.
        arrival: seconds within which every host must connect.

    Raises:
        UserError: the first host cannot listen on the port.
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
        """Return the error of the lost host; wait up to `seconds` for it."""
        self._noticed.wait(seconds)
        return self._lost

    def close(self, failure: BaseException | None = None) -> None:
        """End the watch, and tell the other hosts of success or of the failure."""
        if failure is not None and self._lost is None:
            reason, code = describe(failure)
            if isinstance(failure, SystemExit):
                reason = "it was stopped before training had begun"
            text = f"host {self._hosts[self._rank]} ended: {reason}"[:_REASON_CHARACTERS]
            self._last_line = f"lost {code} {text}"
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
                self._receive()
                if time.monotonic() - last_beat >= BEAT_SECONDS:
                    last_beat = time.monotonic()
                    self._send("beat")
        except HostLostError as lost:
            self._lost = lost
            self._last_line = f"lost {lost.code} {lost}"
            self._on_loss(lost)
            self._noticed.set()
            self._send(self._last_line)
            if not self._closing.wait(GRACE_SECONDS):
                self._on_stuck(lost)
        finally:
            self._send(self._last_line)
            for peer in self._peers.values():
                peer.close()
            if self._listener is not None:
                self._listener.close()
            self._selector.close()

    def _connect(self) -> None:
        """Connect to the first host, which may start later than this one."""
        while not self._closing.is_set():
            try:
                connection = socket.create_connection(self._address, timeout=5.0)
            except OSError as error:  # also a name that does not resolve yet
                if time.monotonic() - self._began > self._arrival:
                    raise HostLostError(
                        f"host {self._hosts[0]} could not be reached on port {self._address[1]} "
                        f"within {self._arrival:.0f} s ({error}): did it start, and can the hosts "
                        "of this job connect to one another?"
                    ) from error
                self._closing.wait(0.5)
                continue
            self._peers[0] = self._registered(connection)
            self._send(f"host {self._rank}")
            _logger.info("Reached the first host, %s", self._hosts[0])
            return

    def _registered(self, connection: socket.socket) -> LineConnection:
        peer = LineConnection(connection)
        self._selector.register(connection, selectors.EVENT_READ, peer)
        return peer

    def _receive(self) -> None:
        """Wait a moment for lines and handle them; raise HostLostError if a host is lost."""
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
                    "hangs, or cannot be reached"
                )
        absent = set(range(1, len(self._hosts))) - set(self._peers) if self._rank == 0 else set()
        if absent and time.monotonic() - self._began > self._arrival:
            raise HostLostError(
                f"host {self._hosts[min(absent)]} did not connect within {self._arrival:.0f} s: "
                "did it start, and can the hosts of this job connect to one another?"
            )

    def _take(self, peer: LineConnection) -> None:
        """Handle the lines of a connection; on the first host it may be a stranger's."""
        rank = next((rank for rank, known in self._peers.items() if known is peer), None)
        try:
            lines = peer.receive()
        except EOFError:
            self._selector.unregister(peer.socket)
            if rank is None:
                peer.close()
            elif rank not in self._done:
                raise HostLostError(
                    f"host {self._hosts[rank]} disconnected unexpectedly: it was killed, "
                    "possibly out of memory, or its machine failed"
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

    def _send(self, line: str) -> None:
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
            f"it cannot open ({error}): set MASTER_PORT so that this port and the next are free"
        ) from error


@contextmanager
def watched(cluster: Cluster, failure_file: Path | None) -> Iterator[None]:
    """End the process, with the reason in `failure_file`, if a host is lost during the block.

    Raises:
        ImageClassificationError: about a lost host, if this process failed because of it.
    """
    rank, count = rank_of(cluster)
    if len(cluster.hosts) * count == 1:
        yield
        return

    def note(lost: HostLostError) -> None:
        """Write the reason at once: NCCL may abort the process when it loses a peer."""
        note_failure(lost.as_failure(), failure_file)

    def end(lost: HostLostError) -> None:
        """End the process from this thread: the main thread may be in a sum that never returns."""
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
    except AlgorithmError as error:  # a sum failed: why did the other host end?
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
        failure_file.unlink(
            missing_ok=True
        )  # the host was lost after this process had done its part
