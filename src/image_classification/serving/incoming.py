"""One HTTP/1.1 request, put together from whatever pieces arrive; nothing here waits or writes.

The head is parsed by gunicorn, which also refuses every ambiguous length (RFC 9112, 6.3). What is
left to do is to know where a body ends before all of it is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gunicorn.http import errors as parsing
from gunicorn.http.body import CHUNK_EXT_RE, ChunkedReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from image_classification.errors import RequestError
from image_classification.serving.http_interface import body_too_large

_HEAD_LIMIT = 64 * 2**10
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:" + CHUNK_EXT_RE.pattern + rb")")
_CHUNK_LINE_LIMIT = 1024
_TRAILER_LIMIT = 8 * 2**10
_SMALLEST_CHUNK = 64  # bytes on average, beyond _FREE_CHUNKS; each costs the main loop 2 µs
_FREE_CHUNKS = 1024

_STATUS = (
    (parsing.LimitRequestLine, 414),
    (parsing.LimitRequestHeaders, 431),
    (parsing.ExpectationFailed, 417),
    (parsing.UnsupportedTransferCoding, 501),
)


@dataclass(frozen=True)
class Received:
    """A whole request: gunicorn's parsed head, and the bytes of its body."""

    head: Any
    body: bytes


class RequestReader:
    """The requests of one connection, one after the other.

    Args:
        config: gunicorn's configuration.
        peer: the caller's address.
        max_body: bytes; a body that announces or has more is refused.
    """

    def __init__(self, config: Any, peer: Any, max_body: int) -> None:
        self._config, self._peer, self._max_body = config, peer, max_body
        self._buffer = bytearray()
        self._head: Any = None
        self._body: _SizedBody | _ChunkedBody | None = None

    @property
    def has_begun(self) -> bool:
        """Whether some of the next request is here."""
        return bool(self._buffer) or self._head is not None

    @property
    def has_head(self) -> bool:
        """Whether the next request's head is here, and its body is awaited."""
        return self._head is not None

    @property
    def head(self) -> Any:
        """gunicorn's parsed head of the next request, or None."""
        return self._head

    @property
    def buffered(self) -> int:
        """Bytes that are held."""
        return len(self._buffer) + (self._body.size if self._body else 0)

    def forget(self) -> None:
        """Drop what has come of a request that is refused."""
        self._buffer.clear()
        self._head = self._body = None

    def wants_continue(self) -> bool:
        """Whether the caller waits for "100 Continue"; asked once for each request."""
        head = self._head
        if head is None or not head._expected_100_continue:
            return False
        head._expected_100_continue = False  # or gunicorn would send another
        return self._body is not None and self._body.size == 0

    def take(self, data: bytes = b"") -> Received | None:
        """The next request if `data` completes it; what comes after it is kept for the next call.

        Raises:
            RequestError: 400, 413, 414, 417, 431 or 501. Where the next request begins is then
                unknown: the connection must end.
        """
        if self._body is None:
            self._buffer += data
            if not self._read_head():
                return None
            data = bytes(self._buffer)
            self._buffer.clear()
        assert self._body is not None
        rest = self._body.feed(data)
        if rest is None:
            return None
        received = Received(self._head, self._body.content())
        self._head = self._body = None
        self._buffer += rest
        return received

    def _read_head(self) -> bool:
        """Parse the head if it is whole, and choose how its body is read."""
        if self._buffer[:2] == b"\r\n":  # one empty line may come before a request
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise RequestError(431, f"the head has more than {_HEAD_LIMIT} bytes")
            return False
        text = bytes(self._buffer[: end + 4])
        del self._buffer[: end + 4]
        self._head = self._parsed(text)
        reader = self._head.body.reader
        if isinstance(reader, ChunkedReader):
            self._body = _ChunkedBody(self._max_body)
        elif reader.length > self._max_body:
            raise body_too_large(reader.length, self._max_body)
        else:
            self._body = _SizedBody(reader.length)
        return True

    def _parsed(self, text: bytes) -> Any:
        try:
            head = Request(self._config, IterUnreader([text]), self._peer)
        except (parsing.ParseException, parsing.NoMoreData) as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 400)
            raise RequestError(status, f"not an HTTP/1.1 request: {error}") from None
        # RFC 9112, 6.1; gunicorn would hand compressed bytes on.
        coding = ", ".join(v for name, v in head.headers if name == "TRANSFER-ENCODING").strip()
        if coding.lower() not in {"", "chunked"}:
            raise RequestError(501, f"Transfer-Encoding {coding!r}: expected chunked")
        return head


class _SizedBody:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self.size = 0
        self._length = length
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> bytes | None:
        """What comes after the body, or None while it is not whole."""
        missing = self._length - self.size
        piece = data[:missing]
        self._pieces.append(piece)
        self.size += len(piece)
        return data[missing:] if self.size == self._length else None

    def content(self) -> bytes:
        return b"".join(self._pieces)


class _ChunkedBody:
    """A body in chunks (RFC 9112, 7.1); extensions and trailers are read and left out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._content = bytearray()  # not a list of pieces: two bytes of body would hold 48
        self._chunks = 0
        self._pending = bytearray()
        self._missing = 0  # bytes of the current chunk
        self._step = self._read_size
        self._is_whole = False

    @property
    def size(self) -> int:
        """Bytes of body that have come."""
        return len(self._content)

    def feed(self, data: bytes) -> bytes | None:
        """What comes after the body, or None while it is not whole."""
        self._pending += data
        while self._step():
            pass
        return bytes(self._pending) if self._is_whole else None

    def content(self) -> bytes:
        return bytes(self._content)

    def _read_size(self) -> bool:
        end = self._pending.find(b"\r\n", 0, _CHUNK_LINE_LIMIT)
        if end < 0:
            if len(self._pending) >= _CHUNK_LINE_LIMIT:
                raise RequestError(400, "a chunk's size line does not end")
            return False
        line = _CHUNK_LINE.fullmatch(bytes(self._pending[:end]))
        if line is None:
            raise RequestError(400, f"not a chunk's size: {bytes(self._pending[:end])!r}")
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
            raise body_too_large(None, self._limit)
        self._step = self._read_data if self._missing else self._read_trailers
        return True

    def _read_data(self) -> bool:
        piece = bytes(self._pending[: self._missing])
        del self._pending[: self._missing]
        self._content += piece
        self._missing -= len(piece)
        if self._missing or len(self._pending) < 2:
            return False
        if self._pending[:2] != b"\r\n":
            raise RequestError(400, f"a chunk ends with {bytes(self._pending[:2])!r}, not CR LF")
        del self._pending[:2]
        self._step = self._read_size
        return True

    def _read_trailers(self) -> bool:
        if self._pending[:2] == b"\r\n":
            del self._pending[:2]
            self._is_whole = True
            return False
        end = self._pending.find(b"\r\n\r\n", 0, _TRAILER_LIMIT)
        if end >= 0:
            del self._pending[: end + 4]
            self._is_whole = True
        elif len(self._pending) >= _TRAILER_LIMIT:
            raise RequestError(431, f"the trailers have more than {_TRAILER_LIMIT} bytes")
        return False
