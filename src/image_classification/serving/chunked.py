"""Bodies in chunks: the chunked transfer coding (RFC 9112, 7.1).

Extensions and trailers are read and dropped. What can no longer become a chunk is refused with the
byte that spoils it; the server never waits for the rest of it.
"""

import re

from image_classification.contract.environment import MAX_CONTENT_LENGTH
from image_classification.errors import RequestError

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
FIELD = re.compile(rb"%b:[\t -~\x80-\xff]*" % TOKEN)
"""A field of a head or a trailer, without its CR LF."""

HUGE = 10**19
"""A size in bytes that stands for all larger ones."""

_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (TOKEN, TOKEN, _QUOTED)
_SIZE = rb"(?=[0-9A-Fa-f]{1,16}(?![0-9A-Fa-f]))0*([0-9A-Fa-f]{1,8})"  # some fill up with zeros
_LINE = re.compile(rb"%b(?:%b)*" % (_SIZE, _EXTENSION))
_PARTIAL_LINE = re.compile(rb"[0-9A-Fa-f]{1,16}(?:[ \t;][\t -~\x80-\xff]*)?\r?")
_LINE_LIMIT = 1024
_TRAILER_LIMIT = 8 * 2**10
_SMALLEST_CHUNK = 64  # bytes on average, beyond _FREE_CHUNKS; each costs the main loop 2 µs
_FREE_CHUNKS = 1024
_BARE = re.compile(rb"(?<!\r)\n|\r[^\n]")


class ChunkedBody:
    """A body in chunks of at most `limit` bytes in all."""

    length = None

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._content = bytearray()  # a list of pieces would take 48 bytes for 2 of body
        self._chunks = 0
        self._pending = bytearray()
        self._missing = 0  # bytes of the current chunk
        self._trailers = 0  # bytes of trailers so far
        self._step = self._read_size
        self._is_whole = False

    @property
    def size(self) -> int:
        """The number of bytes of body so far."""
        return len(self._content)

    def feed(self, data: bytes, start: int) -> int | None:
        """Add the bytes from `start` on; return where the body ends, None while it is not whole.

        Raises:
            RequestError: 400, 413 or 431.
        """
        self._pending += memoryview(data)[start:]
        while self._step():
            pass
        return len(data) - len(self._pending) if self._is_whole else None

    def content(self) -> bytes:
        """Return the whole body."""
        return bytes(self._content)

    def _read_size(self) -> bool:
        end = self._pending.find(b"\r\n", 0, _LINE_LIMIT)
        text = bytes(self._pending[: end if end >= 0 else _LINE_LIMIT])
        line = _LINE.fullmatch(text) if end >= 0 else None
        if line is None:
            if end >= 0 or (text and not _PARTIAL_LINE.fullmatch(text)):
                raise RequestError(
                    400, f"expected a chunk's size in hexadecimal digits and CR LF, got {text!r}"
                )
            if len(text) == _LINE_LIMIT:
                raise RequestError(400, f"the size line of a chunk has {_LINE_LIMIT} bytes or more")
            return False
        del self._pending[: end + 2]
        self._missing = int(line[1], 16)
        self._chunks += 1
        if self._chunks - _FREE_CHUNKS > self.size // _SMALLEST_CHUNK:
            raise RequestError(
                400,
                f"{self._chunks} chunks for {self.size} bytes of body: send chunks of "
                f"{_SMALLEST_CHUNK} bytes or more, or a Content-Length",
            )
        if self.size + self._missing > self._limit:
            raise body_too_large(HUGE, self._limit)
        self._step = self._read_data if self._missing else self._read_trailers
        return True

    def _read_data(self) -> bool:
        piece = bytes(self._pending[: self._missing])
        del self._pending[: self._missing]
        self._content += piece
        self._missing -= len(piece)
        if self._missing:
            return False
        if not b"\r\n".startswith(self._pending[:2]):
            got = bytes(self._pending[:2])
            raise RequestError(400, f"expected CR LF after a chunk, got {got!r}")
        if len(self._pending) < 2:
            return False
        del self._pending[:2]
        self._step = self._read_size
        return True

    def _read_trailers(self) -> bool:
        end = self._pending.find(b"\r\n")
        left = _TRAILER_LIMIT - self._trailers
        if bare := _BARE.search(self._pending, 0, end if 0 <= end < left else left):
            got = bytes(self._pending[: bare.end()][-200:])
            raise RequestError(400, f"expected a trailer field that ends with CR LF, got {got!r}")
        if (end + 2 if end >= 0 else len(self._pending)) > left:
            raise RequestError(431, f"the trailers have more than {_TRAILER_LIMIT} bytes")
        if end < 0:
            return False
        line = bytes(self._pending[:end])
        del self._pending[: end + 2]
        self._trailers += end + 2
        if line and not FIELD.fullmatch(line):
            raise RequestError(400, f"expected a trailer field, got {line[:200]!r}")
        self._is_whole = not line
        return bool(line)


def body_too_large(length: int, limit: int) -> RequestError:
    """Return the refusal of a body of `length` bytes; HUGE if that is not known exactly."""
    size = f"{length} bytes" if length < HUGE else "more"
    return RequestError(
        413,
        f"the body has {size}, the limit is {limit} bytes: send a smaller image or set "
        f"{MAX_CONTENT_LENGTH.name}",
    )
