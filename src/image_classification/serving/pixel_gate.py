"""Large pictures wait for each other, so that a few kilobytes each cannot take the memory of all.

A file of 2 KB may hold 64 megapixels, which are bytes by the gigabyte while they are decoded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from image_classification.data.headers import ImageHeader
from image_classification.serving.observation import current_request

BYTES_PER_PIXEL = 16
"""What decoding costs at most, seen with a transparent WEBP; a PNG takes 7."""

_FREE_PIXELS = 8 << 20  # what a thread's own memory in the plan is enough for
_JPEG_SHARE = 4  # libjpeg-turbo writes 3 bytes a pixel and keeps nothing else


class PixelGate:
    """Bounds the pixels of large pictures that are decoded at once, first come first served.

    Pictures of up to 8 megapixels, and baseline JPEGs of up to 32, never wait here.

    Args:
        limit: pixels; a picture that has more is decoded while no other large one is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def decoding(self, header: ImageHeader) -> Iterator[None]:
        """Wait until the picture of `header` may be decoded; its place is free after the block.

        What it waits counts as queueing of the thread's current request.
        """
        pixels = header.width * header.height
        if header.format == "JPEG" and not header.is_progressive:
            pixels //= _JPEG_SHARE
        if pixels <= _FREE_PIXELS:
            yield
            return
        pixels = min(pixels, self._limit)
        self._enter(pixels)
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()

    def _enter(self, pixels: int) -> None:
        place, start = object(), time.monotonic()
        with self._changed:
            self._waiting.append(place)
            self._changed.wait_for(
                lambda: self._waiting[0] is place and self._used + pixels <= self._limit
            )
            self._waiting.popleft()
            self._used += pixels
            self._changed.notify_all()  # the next one may fit beside it
        current_request().queue_ms += (time.monotonic() - start) * 1000
