"""HTTP/1.1 as bytes: assemble requests from received bytes and write out answers.

Nothing here waits, reads a socket or knows the server. llhttp (the package httptools) parses each
head. The checks here refuse heads that llhttp accepts, but that a proxy in front of the server
might read differently: other protocols and versions, extra spaces, two Host fields. This module
delimits bodies itself, so that every limit holds before the bytes that exceed it arrive.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import responses

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from image_classification.contract.environment import MAX_CONTENT_LENGTH
from image_classification.errors import RequestError

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_HEAD_LIMIT = 64 * 2**10
_LINE_LIMIT = 4094
_MOST_FIELDS = 100
_FIELD_LIMIT = 8190
_AUTHORITY = rb"https?://(?:[0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?"  # a proxy may send it
_METHOD = rb"(?!CONNECT )[A-Z-]{3,20}"  # after CONNECT a tunnel would follow
_REQUEST_LINE = re.compile(rb"(%b) (?:%b)?(/[!-~]*) HTTP/1\.([01])" % (_METHOD, _AUTHORITY))
_SINGLE = ("HOST", "CONTENT-TYPE")  # RFC 9110, 5.3: a second one makes the request ambiguous

# RFC 9112, 7.1: a size in hexadecimal digits and extensions, which are read and left out.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:%b)*" % _EXTENSION)
_CHUNK_LINE_LIMIT = 1024
_TRAILER_LIMIT = 8 * 2**10
_SMALLEST_CHUNK = 64  # bytes on average, beyond _FREE_CHUNKS; each costs the main loop 2 µs
_FREE_CHUNKS = 1024

_MAX_MESSAGE = 2000  # characters: SageMaker passes on 2,048 of a refusal


@dataclass(frozen=True)
class Answer:
    """An answer before it is written out as bytes.

    Attributes:
        status: 200 to 599.
        headers: (name, value) without Content-Length and Connection.
        body: empty or whole.
    """

    status: int
    headers: Iterable[tuple[str, str]] = ()
    body: bytes = b""

    def to_bytes(self, *, is_closing: bool, has_body: bool = True) -> bytes:
        """Return head and body; `has_body` is False for the answer to HEAD."""
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Unknown')}",
            "Server: gunicorn",
            f"Date: {formatdate(usegmt=True)}",
            f"Connection: {'close' if is_closing else 'keep-alive'}",
            *(f"{name}: {value}" for name, value in self.headers),
            f"Content-Length: {len(self.body)}",
            "\r\n",
        ]
        return "\r\n".join(lines).encode("latin-1") + (self.body if has_body else b"")


_REASONS = responses | {499: "Client Closed Request"}


def refusal(status: int, message: str) -> Answer:
    """Return the answer to a refused request: one line of JSON with the reason.

    A 503 has Retry-After, because the same request can succeed later.
    """
    headers = [("Content-Type", "application/json")]
    if status == 503:
        headers.append(("Retry-After", "1"))
    body = json.dumps({"error": one_line(message)}, ensure_ascii=False)
    return Answer(status, headers, body.encode())


def one_line(message: str) -> str:
    """Return the message on one line, no longer than SageMaker passes on."""
    return " ".join(message.split())[:_MAX_MESSAGE]


@dataclass
class Head:
    """The head of a request.

    Attributes:
        method: in upper case.
        path: before the "?", with its %-escapes.
        query: after the "?".
        headers: (name in upper case, value); names with "_" are left out, because WSGI cannot tell
            them from names with "-".
        minor_version: of HTTP/1.
        is_whole: whether its empty line has been read.
    """

    method: str
    path: str
    query: str
    minor_version: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    is_whole: bool = False

    def get(self, name: str) -> str | None:
        """Return the value of the first header of that name (in upper case), or None."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def is_persistent(self) -> bool:
        """Whether the client keeps the connection open after the answer (RFC 9112, 9.3)."""
        values = ",".join(value for name, value in self.headers if name == "CONNECTION")
        options = {option.strip() for option in values.lower().split(",")}
        return "close" not in options and (self.minor_version > 0 or "keep-alive" in options)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for "100 Continue" before it sends the body."""
        return self.minor_version > 0 and self.get("EXPECT") is not None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools."""
        if b"_" not in name:
            text = value.decode("latin-1").rstrip(" \t")
            self.headers.append((name.decode("ascii").upper(), text))

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        self.is_whole = True


def _parse_head(text: bytes) -> Head:
    """Parse the head in `text`, which ends with its first empty line, or refuse it."""
    line, *fields = text[:-4].split(b"\r\n")
    if len(line) > _LINE_LIMIT:
        raise RequestError(414, f"the request line has more than {_LINE_LIMIT} bytes")
    if len(fields) > _MOST_FIELDS or any(len(entry) + 2 > _FIELD_LIMIT for entry in fields):
        limits = f"{_MOST_FIELDS} fields of {_FIELD_LIMIT} bytes"
        raise RequestError(431, f"the head has more than {limits}")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise _not_http(f"request line {line[:200].decode('latin-1')!r}")
    _check_codings(fields, minor_version=int(found[3]))
    path, _, query = found[2].decode().partition("#")[0].partition("?")
    head = Head(found[1].decode(), path, query, int(found[3]))
    try:
        HttpRequestParser(head).feed_data(text)
    except HttpParserUpgrade:
        pass  # the server does not switch protocols: it answers in HTTP/1.1
    except HttpParserError as error:
        raise _not_http(str(error)) from None
    if not head.is_whole:
        raise _not_http("the head does not end with its empty line")
    names = [name for name, _ in head.headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise _not_http(f"{names.count(name)} {name} fields")
    expected = head.get("EXPECT")
    if expected is not None and expected.lower() != "100-continue":
        raise RequestError(417, f"Expect {expected!r}: expected 100-continue")
    return head


def _check_codings(fields: list[bytes], minor_version: int) -> None:
    """Refuse every Transfer-Encoding but `chunked`, and that one in HTTP/1.0 (RFC 9112, 6.1)."""
    values = [
        entry.partition(b":")[2] for entry in fields if entry[:18].lower() == b"transfer-encoding:"
    ]
    if not values:
        return
    coding = b",".join(values).strip().lower().decode("latin-1")
    names = {name.strip() for name in coding.split(",")}
    if not names <= {"chunked", "identity"}:
        raise RequestError(501, f"Transfer-Encoding {coding!r}: expected chunked")
    if coding != "chunked" or minor_version == 0:
        raise _not_http(f"Transfer-Encoding {coding!r} in HTTP/1.{minor_version}")


def _not_http(found: str) -> RequestError:
    return RequestError(400, f"not an HTTP/1.1 request: {found}")


def _body_too_large(length: int | None, limit: int) -> RequestError:
    """Refuse a body of `length` bytes; None means more than the limit, in chunks."""
    size = f"{length} bytes" if length is not None else "more"
    return RequestError(
        413,
        f"the body has {size}, the limit is {limit} bytes: send a smaller image or set "
        f"{MAX_CONTENT_LENGTH.name}",
    )


@dataclass(frozen=True)
class Request:
    """A whole request."""

    head: Head
    body: bytes


class RequestReader:
    """The requests of one connection, one after the other.

    Args:
        max_body: bytes; a body that announces or has more is refused.
    """

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()
        self._head: Head | None = None
        self._body: _SizedBody | _ChunkedBody | None = None
        self._may_continue = False

    @property
    def has_begun(self) -> bool:
        """Whether some bytes of the next request have arrived."""
        return bool(self._buffer) or self._head is not None

    @property
    def head(self) -> Head | None:
        """The head of the next request while its body is awaited."""
        return self._head

    @property
    def buffered(self) -> int:
        """The number of bytes held."""
        return len(self._buffer) + (self._body.size if self._body else 0)

    def forget(self) -> None:
        """Drop the received bytes of a refused request."""
        self._buffer.clear()
        self._head = self._body = None

    def wants_continue(self) -> bool:
        """Whether to send "100 Continue" now; True at most once for each request."""
        wants, self._may_continue = self._may_continue, False
        return wants and self._body is not None and self._body.size == 0

    def take(self, data: bytes = b"") -> Request | None:
        """Return the next request if `data` completes it; later bytes are kept for the next call.

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
        assert self._body is not None and self._head is not None
        rest = self._body.feed(data)
        if rest is None:
            return None
        request = Request(self._head, self._body.content())
        self._head = self._body = None
        self._buffer += rest
        return request

    def _read_head(self) -> bool:
        """Parse the head if it is whole, and choose how its body is read."""
        if self._buffer[:2] == b"\r\n":  # RFC 9112, 2.2: one empty line may precede a request
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise RequestError(431, f"the head has more than {_HEAD_LIMIT} bytes")
            return False
        text = bytes(self._buffer[: end + 4])
        del self._buffer[: end + 4]
        self._head = head = _parse_head(text)
        length = int(head.get("CONTENT-LENGTH") or 0)
        if head.get("TRANSFER-ENCODING") is not None:
            self._body = _ChunkedBody(self._max_body)
        elif length > self._max_body:
            raise _body_too_large(length, self._max_body)
        else:
            self._body = _SizedBody(length)
        self._may_continue = head.expects_continue
        return True


class _SizedBody:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self.size = 0
        self._length = length
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> bytes | None:
        """Return the bytes after the body, or None while it is not whole."""
        missing = self._length - self.size
        piece = data[:missing]
        self._pieces.append(piece)
        self.size += len(piece)
        return data[missing:] if self.size == self._length else None

    def content(self) -> bytes:
        return b"".join(self._pieces)


class _ChunkedBody:
    """A body in chunks (RFC 9112, 7.1); extensions and trailers are read and dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._content = bytearray()  # a list of pieces would take 48 bytes for 2 of body
        self._chunks = 0
        self._pending = bytearray()
        self._missing = 0  # bytes of the current chunk
        self._step = self._read_size
        self._is_whole = False

    @property
    def size(self) -> int:
        """The number of bytes of body so far."""
        return len(self._content)

    def feed(self, data: bytes) -> bytes | None:
        """Return the bytes after the body, or None while it is not whole."""
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
                raise RequestError(
                    400, f"the size line of a chunk has {_CHUNK_LINE_LIMIT} bytes or more"
                )
            return False
        line = _CHUNK_LINE.fullmatch(bytes(self._pending[:end]))
        if line is None:
            raise RequestError(
                400,
                "expected the size of a chunk in hexadecimal digits, got "
                f"{bytes(self._pending[:end])!r}",
            )
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
            raise _body_too_large(None, self._limit)
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
            raise RequestError(
                400, f"expected CR LF after a chunk, got {bytes(self._pending[:2])!r}"
            )
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
