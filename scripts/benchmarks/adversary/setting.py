"""How large a run is, and how strictly wall-clock times are judged."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

_BEGIN = time.monotonic()


@dataclass(frozen=True)
class Size:
    """Counts and lengths of a run.

    Attributes:
        picture_bytes: of the pictures that are as large as they can be.
        hostile: requests of the flood.
        fuzzed: mutated requests.
        half_open: connections with half a head.
        silent: connections with a head and no body.
        seconds: of each part whose length is a time.
        ending: requests under way when a process ends.
        has_long: whether attacks that must wait for deadlines (half a minute each) are part of it.
        bulk_images: pictures in a bulk request.
        ping_ms: the most that the 99th percentile of a ping may take.
        slowdown: the most by which a bulk request may slow a small one.
    """

    picture_bytes: int
    hostile: int
    fuzzed: int
    half_open: int
    silent: int
    seconds: float
    ending: int
    has_long: bool
    bulk_images: int
    ping_ms: float
    slowdown: float


@dataclass(frozen=True)
class Setting:
    """What every attack gets: how large it is, the artifact, a folder, photographs to send."""

    size: Size
    model: Path
    work: Path
    photos: Path
    seed: int


def say(text: str) -> None:
    """Report progress on standard error."""
    print(f"{time.monotonic() - _BEGIN:6.1f} s  {text}", file=sys.stderr, flush=True)
