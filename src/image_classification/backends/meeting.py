"""How processes that train together wait for each other: some begin minutes after others."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

_ATTEMPT_SECONDS = 5.0
_PAUSE_SECONDS = 0.2


def await_listeners(addresses: Sequence[str]) -> None:
    """Return when something listens at each `host:port`.

    Without end: a host may be slow to get its data, and who watches for lost ones is the core
    (`training/lifeline`). Frameworks have waits of their own, but those hear no SIGTERM, and their
    timeouts end a job whose other host is alive.
    """
    for address in addresses:
        host, _, port = address.rpartition(":")
        while not _is_listening(host, int(port)):
            time.sleep(_PAUSE_SECONDS)


def _is_listening(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_ATTEMPT_SECONDS).close()
    except OSError:  # also a name that does not resolve yet
        return False
    return True
