"""HTTP/1.1 as bytes: assemble requests from received bytes and write out answers.

Nothing here waits, reads a socket or knows the server. llhttp (the package httptools) parses the
fields of each head. This module reads the request line and the fields that delimit the body, and
refuses what a proxy in front of the server might read differently: other protocols and versions,
extra spaces, two lengths. It delimits bodies itself, so that every limit holds before the bytes
that exceed it arrive.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http.client import responses
from types import SimpleNamespace

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from image_classification.contract.environment import MAX_CONTENT_LENGTH
from image_classification.errors import RequestError

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_HEAD_LIMIT = 64 * 2**10
_LINE_LIMIT = 4094
_MOST_FIELDS = 100
_FIELD_LIMIT = 8190
_REG_NAME = rb"[0-9A-Za-z._~!$&'()*+,;=%-]+"
_AUTHORITY = rb"(?i:https?)://(?:%b|\[[0-9A-Fa-f:.]+\])(?::\d*)?(?=[/?# ])" % _REG_NAME
_METHOD = rb"(?!CONNECT )[0-9A-Z!$%&'*+.^_`|~-]{3,20}"  # after CONNECT a tunnel would follow
_REQUEST_LINE = re.compile(rb"(%b) (?:%b|(?=/))([!-~]*) HTTP/1\.(\d)" % (_METHOD, _AUTHORITY))
_SINGLE = ("HOST", "CONTENT-TYPE")  # RFC 9110, 5.3: a second one makes the request ambiguous

_FRAMING = re.compile(rb"(?:content-length|transfer-encoding):", re.IGNORECASE)
_CODINGS = {"chunked", "compress", "deflate", "gzip", "identity"}  # RFC 9112, 7
_HUGE = 10**19  # bytes: a Content-Length with more digits than this is not converted

# RFC 9112, 7.1: a size in hexadecimal digits and extensions, which are read and left out.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:%b)*" % _EXTENSION)
_CHUNK_LINE_LIMIT = 1024
_FIELD = re.compile(rb"%b:[\t -~\x80-\xff]*" % _TOKEN)
_TRAILER_LIMIT = 8 * 2**10
_SMALLEST_CHUNK = 64  # bytes on average, beyond _FREE_CHUNKS; each costs the main loop 2 µs
_FREE_CHUNKS = 1024


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


@dataclass(frozen=True)
class Head:
    """The head of a request.

    Attributes:
        method: in upper case.
        path: before the "?", with its %-escapes.
        query: after the "?".
        minor_version: of HTTP/1.
        length: of the body in bytes; None if it is in chunks.
        headers: (name in upper case, value) without Content-Length and Transfer-Encoding; names
            with "_" are left out, because WSGI cannot tell them from names with "-".
    """

    method: str
    path: str
    query: str
    minor_version: int
    length: int | None
    headers: list[tuple[str, str]]

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
    path, _, query = found[2].decode().partition("#")[0].partition("?")
    length = _body_length(fields, minor_version=int(found[3]))
    headers = _parse_fields([entry for entry in fields if not _FRAMING.match(entry)])
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise _not_http(f"{names.count(name)} {name} fields")
    for name, value in headers:
        if name == "EXPECT" and value.lower() != "100-continue":
            raise RequestError(417, f"Expect {value!r}: expected 100-continue")
    return Head(found[1].decode(), path or "/", query, int(found[3]), length, headers)


def _body_length(fields: list[bytes], minor_version: int) -> int | None:
    """Return the length of the body in bytes, or None if it is in chunks (RFC 9112, 6.3).

    `chunked` is the only Transfer-Encoding that the server accepts, and not in HTTP/1.0.
    """
    framing: dict[bytes, list[str]] = {b"content-length": [], b"transfer-encoding": []}
    for entry in filter(_FRAMING.match, fields):
        if not _FIELD.fullmatch(entry):
            raise _not_http(f"field {entry[:200].decode('latin-1')!r}")
        name, _, value = entry.partition(b":")
        framing[name.lower()].append(value.decode("latin-1").strip(" \t"))
    lengths, codings = framing.values()
    if codings and lengths:
        raise _not_http("both Transfer-Encoding and Content-Length")
    if codings:
        coding = ",".join(codings).lower()
        names = [name.strip(" \t") for name in coding.split(",")]
        is_last = names.count("chunked") == 1 and names[-1] == "chunked"
        if _CODINGS.issuperset(names) and not (is_last and minor_version):
            raise _not_http(f"Transfer-Encoding {coding!r} in HTTP/1.{minor_version}")
        if names != ["chunked"]:
            raise RequestError(501, f"Transfer-Encoding {coding!r}: expected chunked")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
        raise _not_http(f"Content-Length {', '.join(lengths)[:200]!r}")
    digits = lengths[0].lstrip("0")
    return int(digits or "0") if len(digits) < 20 else _HUGE


def _parse_fields(lines: list[bytes]) -> list[tuple[str, str]]:
    """Return (name in upper case, value) of the fields in `lines`, without names with "_"."""
    found: list[tuple[bytes, bytes]] = []
    parser = HttpRequestParser(SimpleNamespace(on_header=lambda *entry: found.append(entry)))
    try:
        parser.feed_data(b"\r\n".join([b"GET / HTTP/1.1", *lines, b"\r\n"]))
    except HttpParserUpgrade:
        pass  # the server does not switch protocols: it answers in HTTP/1.1
    except HttpParserError as error:
        raise _not_http(str(error)) from None
    if len(found) != len(lines):
        raise _not_http(f"{len(lines)} lines with {len(found)} fields")
    return [
        (name.decode("ascii").upper(), value.decode("latin-1").rstrip(" \t"))
        for name, value in found
        if b"_" not in name
    ]


def _not_http(found: str) -> RequestError:
    return RequestError(400, f"not an HTTP/1.1 request: {found}")


def _body_too_large(length: int, limit: int) -> RequestError:
    size = f"{length} bytes" if length < _HUGE else "more"
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
    """The requests of one connection, in order; a body of more than `max_body` bytes is refused."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()
        self._skipped = 0
        self._head: Head | None = None
        self._body: _SizedBody | _ChunkedBody | None = None
        self._may_continue = False

    @property
    def has_begun(self) -> bool:
        """Whether some bytes of the next request have arrived."""
        return bool(self._buffer) or self._head is not None

    @property
    def has_empty_lines(self) -> bool:
        """Whether empty lines have arrived before the next request."""
        return self._skipped > 0

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
        self._skipped, self._head, self._body = 0, None, None

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
        while self._buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: before a request
            del self._buffer[:2]
            self._skipped += 2
        end = self._buffer.find(b"\r\n\r\n")
        if self._skipped + (end + 4 if end >= 0 else len(self._buffer)) > _HEAD_LIMIT:
            raise RequestError(431, f"the head has more than {_HEAD_LIMIT} bytes")
        if end < 0:
            return False
        text = bytes(self._buffer[: end + 4])
        del self._buffer[: end + 4]
        self._skipped, self._head = 0, (head := _parse_head(text))
        if head.length is None:
            self._body = _ChunkedBody(self._max_body)
        elif head.length > self._max_body:
            raise _body_too_large(head.length, self._max_body)
        else:
            self._body = _SizedBody(head.length)
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
        self._trailers = 0  # bytes of trailers so far
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
                limit = _CHUNK_LINE_LIMIT
                raise RequestError(400, f"the size line of a chunk has {limit} bytes or more")
            return False
        line = _CHUNK_LINE.fullmatch(bytes(self._pending[:end]))
        if line is None:
            got = bytes(self._pending[:end])
            raise RequestError(400, f"expected a chunk's size in hexadecimal digits, got {got!r}")
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
            raise _body_too_large(_HUGE, self._limit)
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
            got = bytes(self._pending[:2])
            raise RequestError(400, f"expected CR LF after a chunk, got {got!r}")
        del self._pending[:2]
        self._step = self._read_size
        return True

    def _read_trailers(self) -> bool:
        end = self._pending.find(b"\r\n")
        if self._trailers + (end + 2 if end >= 0 else len(self._pending)) > _TRAILER_LIMIT:
            raise RequestError(431, f"the trailers have more than {_TRAILER_LIMIT} bytes")
        if end < 0:
            return False
        line = bytes(self._pending[:end])
        del self._pending[: end + 2]
        self._trailers += end + 2
        if line and not _FIELD.fullmatch(line):
            raise RequestError(400, f"expected a trailer field, got {line[:200]!r}")
        self._is_whole = not line
        return bool(line)
