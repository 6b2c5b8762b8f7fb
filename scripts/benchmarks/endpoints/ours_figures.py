"""Figures of our server only: pings under load, overload, a killed process, start-up."""

from __future__ import annotations

import time
from pathlib import Path

from endpoints.process import Endpoint, finding, half_open, start_client

PING_CLIENTS, HALF_OPEN = 64, 40
OVERLOAD = 4.0
_WAITING = 103  # requests that the server holds before it refuses: its queue and three threads


def figures(endpoint: Endpoint, photos: Path, peak: float, seconds: float) -> dict[str, object]:
    """Name → figures.

    Args:
        endpoint: ours, just started.
        photos: what is sent.
        peak: predictions a second with 16 clients.
        seconds: of each part.
    """
    return {
        "ping_beside_64_clients": _pings(endpoint, photos, seconds),
        "ping_beside_half_open": _pings_beside_half_open(endpoint, seconds),
        "overload": _overload(endpoint, photos, peak, seconds),
        "killed": _killed(endpoint, photos, seconds),
    }


def _pings(endpoint: Endpoint, photos: Path, seconds: float) -> dict[str, object]:
    load = start_client(endpoint.port, PING_CLIENTS, seconds + 2, "/invocations", photos)
    time.sleep(1.5)
    pings = finding(start_client(endpoint.port, 1, seconds, "/ping", None))
    finding(load)
    return pings


def _pings_beside_half_open(endpoint: Endpoint, seconds: float) -> dict[str, object]:
    with half_open(endpoint.port, HALF_OPEN):
        return finding(start_client(endpoint.port, 1, seconds, "/ping", None))


def _overload(endpoint: Endpoint, photos: Path, peak: float, seconds: float) -> dict[str, object]:
    """Send four times as many requests as the server can answer; refused clients retry."""
    clients = 4 * _WAITING
    retry = (clients - _WAITING) / ((OVERLOAD - 1) * peak)
    load = start_client(endpoint.port, clients, seconds + 2, "/invocations", photos, retry)
    seen = finding(load)
    seen["share_of_peak"] = float(str(seen["per_second"])) / peak
    return seen


def _killed(endpoint: Endpoint, photos: Path, seconds: float) -> dict[str, object]:
    load = start_client(endpoint.port, 16, seconds + 2, "/invocations", photos)
    time.sleep(1.0 + seconds / 2)
    endpoint.kill_worker()
    return finding(load)
