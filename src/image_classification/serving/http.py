"""HTTP/1.1 as bytes: assemble requests from received bytes and write out answers.

Nothing here waits, reads a socket or knows the server. llhttp (the package httptools) parses the
fields of each head. This module reads the request line and the fields that delimit the body, and
refuses what a proxy in front of the server might read differently: other protocols and versions,
extra spaces, lines that end with LF alone, two lengths. It delimits bodies itself, so that every
limit holds before the bytes that exceed it arrive, and refuses at once what can no longer become a
request, in whatever pieces it arrives.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http.client import responses
from types import SimpleNamespace

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from image_classification.errors import RequestError
from image_classification.serving.chunked import FIELD, HUGE, ChunkedBody, body_too_large

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_HEAD_LIMIT = 64 * 2**10
_LINE_LIMIT = 4094
_MOST_FIELDS = 100
_SMALL_PIECE = 2048  # bytes; in a list, each piece of one byte would take 48
_FIELD_LIMIT = 8190
_REG_NAME = rb"[0-9A-Za-z._~!$&'()*+,;=%-]+"
_AUTHORITY = rb"(?i:https?)://(?:%b|\[[0-9A-Fa-f:.]+\])(?::\d*)?(?=[/?# ])" % _REG_NAME
_METHOD = rb"(?!CONNECT )[0-9A-Z!$%&'*+.^_`|~-]{3,20}"  # after CONNECT a tunnel would follow
_REQUEST_LINE = re.compile(rb"(%b) (?:%b|(?=/))([!-~]*) HTTP/1\.(\d)" % (_METHOD, _AUTHORITY))
_VERSION_SO_FAR = rb"(?:H(?:T(?:T(?:P(?:/(?:1(?:\.\d?)?)?)?)?)?)?)?"
_LINE_SO_FAR = re.compile(  # what can still become a request line
    rb"[0-9A-Z!$%%&'*+.^_`|~-]{1,20}(?: (?:[/Hh][!-~]*(?: %b)?)?)?\r?" % _VERSION_SO_FAR
)
_TLS = b"\x16\x03"  # a handshake record (RFC 8446, 5.1)
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_SINGLE = ("HOST", "CONTENT-TYPE")  # RFC 9110, 5.3: a second one makes the request ambiguous
_EXPECTED = {"100-continue", ""}
_HOST = re.compile(r"(?:[0-9A-Za-z._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?", re.ASCII)

_FORBIDDEN = re.compile(r"[\r\n\0]")
_FRAMING = re.compile(rb"(?:content-length|transfer-encoding):", re.IGNORECASE)
_CODINGS = {"chunked", "compress", "deflate", "gzip", "identity"}  # RFC 9112, 7


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
        """Return head and body; `has_body` is False for the answer to HEAD.

        Raises:
            ValueError: a header has characters that HTTP does not allow: the user's code set it.
        """
        for name, value in self.headers:
            if _FORBIDDEN.search(value):
                raise ValueError(f"the header {name} has the value {value[:200]!r}")
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Unknown')}",
            "Server: gunicorn",
            _date_line(int(time.time())),
            f"Connection: {'close' if is_closing else 'keep-alive'}",
            *(f"{name}: {value}" for name, value in self.headers),
            f"Content-Length: {len(self.body)}",
            "\r\n",
        ]
        return "\r\n".join(lines).encode("latin-1") + (self.body if has_body else b"")


@lru_cache(1)
def _date_line(now: int) -> str:
    return f"Date: {formatdate(now, usegmt=True)}"


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

    def joined(self, name: str) -> str | None:
        """Return the values of all headers of that name as WSGI joins them, or None."""
        values = [value for key, value in self.headers if key == name]
        return ",".join(values) if values else None

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
    if (found := _REQUEST_LINE.fullmatch(line)) is None or len(line) > _LINE_LIMIT:
        _check_line(line)
        raise _not_http(f"request line {line[:200].decode('latin-1')!r}")
    ends = len(fields) + 2
    if text.count(b"\n") != ends or text.count(b"\r") != ends or b"\0" in text:
        _check_ends(text)
    if len(fields) > _MOST_FIELDS or (
        len(text) > _FIELD_LIMIT and any(len(entry) + 2 > _FIELD_LIMIT for entry in fields)
    ):
        most = f"{_MOST_FIELDS} fields, each of at most {_FIELD_LIMIT} bytes"
        raise RequestError(431, f"expected a head of at most {most}, got more")
    path, _, query = found[2].decode().partition("#")[0].partition("?")
    minor_version = int(found[3])
    framing = [entry for entry in fields if _FRAMING.match(entry)]
    length = _body_length(framing, minor_version)
    headers = _parse_fields([entry for entry in fields if entry not in framing])
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise _not_http(f"{names.count(name)} {name} fields, expected one")
    for name, value in headers:
        if name == "EXPECT" and not _EXPECTED.issuperset(value.lower().replace(" ", "").split(",")):
            raise RequestError(417, f"Expect {value!r}: expected 100-continue")
    return Head(found[1].decode(), path or "/", query, minor_version, length, headers)


def _check_host(head: Head) -> None:
    """Refuse an HTTP/1.1 request without Host and a Host that names no server (RFC 9112, 3.2)."""
    host = head.get("HOST")
    if host is None and head.minor_version:
        raise _not_http("no Host field: HTTP/1.1 requires one, for example 'Host: localhost'")
    if host and not _HOST.fullmatch(host):
        raise _not_http(f"Host {host[:200]!r}, expected a name or an address")


def _check_line(line: bytes) -> None:
    """Refuse what has arrived of a request line if it can no longer become one."""
    begin = line[: _LINE_LIMIT + 1]
    if _LINE_SO_FAR.fullmatch(begin) or b"\r".startswith(begin):
        if len(line.removesuffix(b"\r")) > _LINE_LIMIT:
            raise RequestError(414, f"the request line has more than {_LINE_LIMIT} bytes")
        return
    if _TLS.startswith(line[:2]):
        raise _not_http("these bytes are TLS, and the server speaks plain HTTP: use http://")
    if line.startswith(b"PRI *"):
        raise _not_http("this is HTTP/2: use HTTP/1.1")
    _check_ends(line)
    raise _not_http(f"request line {line[:200].decode('latin-1')!r}")


def _check_ends(text: bytes) -> None:
    """Refuse a head, or what has arrived of it, with an LF, CR or NUL alone."""
    if found := _BARE.search(text):
        name = {10: "LF", 13: "CR", 0: "NUL"}[found[0][0]]
        got = text[max(0, found.start() - 100) : found.start() + 1].decode("latin-1")
        raise _not_http(f"{name} alone in {got!r}, where lines end with CR LF")


def _body_length(fields: list[bytes], minor_version: int) -> int | None:
    """Return the length of the body in bytes, or None if it is in chunks (RFC 9112, 6.3).

    `chunked` is the only Transfer-Encoding that the server accepts, and not in HTTP/1.0.
    """
    framing: dict[bytes, list[str]] = {b"content-length": [], b"transfer-encoding": []}
    for entry in fields:
        if not FIELD.fullmatch(entry):
            raise _not_http(f"field {entry[:200].decode('latin-1')!r}")
        name, _, value = entry.partition(b":")
        framing[name.lower()].append(value.decode("latin-1").strip(" \t"))
    lengths, codings = framing.values()
    if codings and lengths:
        raise _not_http("both Transfer-Encoding and Content-Length, expected one of them")
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
        raise _not_http(f"Content-Length {', '.join(lengths)[:200]!r}, expected one whole number")
    digits = lengths[0].lstrip("0")
    return int(digits or "0") if len(digits) < 20 else HUGE


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
        raise _not_http(f"{len(lines)} lines with {len(found)} fields, expected one on each line")
    return [
        (name.decode("ascii").upper(), value.decode("latin-1").rstrip(" \t"))
        for name, value in found
        if b"_" not in name
    ]


def _not_http(found: str) -> RequestError:
    return RequestError(400, f"not an HTTP/1.1 request: {found}")


@dataclass(frozen=True)
class Request:
    """A whole request."""

    head: Head
    body: bytes


class RequestReader:
    """The requests of one connection, in order; a body of more than `max_body` bytes is refused."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._data, self._at = b"", 0  # received bytes, and where those not read yet begin
        self._skipped = 0  # bytes of empty lines before the head
        self._checked, self._has_line = 0, False  # how much of a head in pieces was checked
        self._head: Head | None = None
        self._body: _SizedBody | ChunkedBody | None = None
        self._may_continue = False

    @property
    def has_begun(self) -> bool:
        """Whether some bytes of the next request have arrived."""
        return self._at < len(self._data) or self._head is not None

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
        return len(self._data) - self._at + (self._body.size if self._body else 0)

    @property
    def missing(self) -> int | None:
        """The number of bytes the body lacks; None before its head and for one in chunks."""
        if self._body is None or self._body.length is None:
            return None
        return self._body.length - self._body.size

    def forget(self) -> None:
        """Drop the received bytes of a refused request."""
        self._data, self._at, self._skipped = b"", 0, 0
        self._checked, self._has_line = 0, False
        self._head = self._body = None

    def wants_continue(self) -> bool:
        """Whether to send "100 Continue" now; True at most once for each request.

        Not for a body that has begun to arrive, and not for one that needs none: the answer comes.
        """
        wants, self._may_continue = self._may_continue, False
        return wants and self._body is not None and self._body.size == 0

    def take(self, data: bytes = b"") -> Request | None:
        """Return the next request if `data` completes it; later bytes are kept for the next call.

        Raises:
            RequestError: 400, 413, 414, 417, 431 or 501. Where the next request begins is then
                unknown: the connection must end.
        """
        start = 0
        if self._body is None:
            if data:
                self._data, self._at = self._data[self._at :] + data, 0
            if not self._read_head():
                return None
            data, start = self._data, self._at
            self._data, self._at = b"", 0
        assert self._body is not None and self._head is not None
        end = self._body.feed(data, start)
        if end is None:
            return None
        request = Request(self._head, self._body.content())
        self._head = self._body = None
        if end < len(data):
            self._data, self._at = data, end
        return request

    def _read_head(self) -> bool:
        """Parse the head if it is whole, and choose how its body is read."""
        while self._data.startswith(b"\r\n", self._at):  # RFC 9112, 2.2: before a request
            self._at += 2
            self._skipped += 2
        end = self._data.find(b"\r\n\r\n", self._at + max(0, self._checked - 3))
        size = (end + 4 if end >= 0 else len(self._data)) - self._at
        room = _HEAD_LIMIT - self._skipped
        if end < 0 or size > room:
            self._check(self._data[self._at : self._at + max(0, min(size, room))])
            if size > room:
                raise RequestError(431, f"the head has more than {_HEAD_LIMIT} bytes")
            return False
        text = self._data[self._at : end + 4]
        self._at += len(text)
        self._skipped, self._checked, self._has_line = 0, 0, False
        self._head = head = _parse_head(text)
        if head.length is None:
            self._body = ChunkedBody(self._max_body)
        elif head.length > self._max_body:
            raise body_too_large(head.length, self._max_body)
        else:
            self._body = _SizedBody(head.length)
        _check_host(head)
        self._may_continue = head.expects_continue
        return True

    def _check(self, text: bytes) -> None:
        """Refuse the head so far if it cannot become one; what was checked before is not again."""
        if not self._has_line:
            line, *rest = text.split(b"\r\n", 1)
            _check_line(line)
            if rest and not _REQUEST_LINE.fullmatch(line):
                raise _not_http(f"request line {line[:200].decode('latin-1')!r}")
            self._has_line = bool(rest)
        _check_ends(text[self._checked - 1 :].removeprefix(b"\n") if self._checked else text)
        self._checked = len(text)


class _SizedBody:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self.size = 0
        self.length = length
        self._pieces: list[bytes | bytearray] = []

    def feed(self, data: bytes, start: int) -> int | None:
        """Add the bytes from `start` on; return where the body ends, None while it is not whole."""
        end = start + self.length - self.size
        piece = data if not start and len(data) <= end else data[start:end]
        self.size += len(piece)
        if not self._pieces or len(piece) >= _SMALL_PIECE:
            self._pieces.append(piece)
        elif isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))
        return end if self.size == self.length else None

    def content(self) -> bytes:
        """Return the whole body."""
        return b"".join(self._pieces)
