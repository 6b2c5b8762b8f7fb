"""Content-Encoding of request bodies: gzip and deflate, never beyond the limit of a body.

Sources: RFC 9110, 8.4 and 12.5.3; RFC 1952 (gzip, which may have several members); RFC 1950. Many
programs send `deflate` without the frame of RFC 1950, so both are read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from image_classification.errors import RequestError
from image_classification.images.foreign_text import IMAGE

ACCEPTED = "gzip, deflate, identity"
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window sizes, which tell it the frame
_CHUNK = 64 * 2**10  # bytes: what follows a member is copied for each member
_MOST_MEMBERS = 1000


def decoded(body: bytes, header: str, limit: int) -> bytes:
    """Return the body without its coding.

    Args:
        body: as received.
        header: Content-Encoding.
        limit: bytes of the result; no more than that is ever decompressed.

    Raises:
        RequestError: 400, damaged or not in that coding; 413, larger than `limit`; 415, another
            coding or several.
    """
    codings = [coding.strip().lower() for coding in header.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not codings:
        return body
    if len(codings) > 1 or codings[0] not in ("gzip", "x-gzip", "deflate"):
        raise RequestError(
            415,
            f"Content-Encoding {header[:100]!r} is not accepted: send the body uncompressed, or "
            "compressed with gzip or deflate",
            {"Accept-Encoding": ACCEPTED},
        )
    try:
        return b"".join(_pieces(body, _frame_of(body, codings[0]), limit))
    except zlib.error as error:
        found = IMAGE.match(body)
        got = f"a plain {found.lastgroup}" if found else str(error)
        raise RequestError(
            400,
            f"expected a body in {codings[0]}, as Content-Encoding says, got {got}: send the header"
            " only with such a body",
        ) from error


def _frame_of(body: bytes, coding: str) -> int:
    if coding != "deflate":
        return _GZIP
    has_frame = body[:1] and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _ZLIB if has_frame else _RAW


def _pieces(body: bytes, frame: int, limit: int) -> Iterator[bytes]:
    size = position = 0
    for _ in range(_MOST_MEMBERS):
        decoder = zlib.decompressobj(frame)
        while not decoder.eof and position < len(body):
            chunk = body[position : position + _CHUNK]
            piece = decoder.decompress(chunk, limit - size + 1)
            size += len(piece)
            if size > limit:
                raise RequestError(
                    413,
                    f"the body of {len(body)} bytes has more than {limit} when decompressed, the "
                    "limit: send a smaller image or set MAX_CONTENT_LENGTH",
                )
            position += len(chunk) - len(decoder.unused_data)
            yield piece
        if not decoder.eof:
            raise zlib.error(f"{len(body)} bytes that end too early")
        if position == len(body):
            return
        if frame != _GZIP or body[position] == 0:
            if not body[position:].strip(b"\0"):  # padding
                return
            raise zlib.error(f"{len(body) - position} bytes too many")
    raise zlib.error(f"more than {_MOST_MEMBERS} members")
