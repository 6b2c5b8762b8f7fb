"""Bodies of multipart/form-data → the encoded images in their parts (RFC 7578)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from image_classification.errors import RequestError
from image_classification.images.foreign_text import IMAGE, name_text

_HEAD_LIMIT = 16 * 2**10  # bytes of a part's header lines; each line costs the parser a microsecond
_HEAD_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_SHOWN = 4096


def read_parts(body: bytes, content_type: str, limit: int) -> list[bytes]:
    """Return the parts that have a file name, are declared as images, or begin as one.

    Raises:
        RequestError: 400 without a boundary, for a body that does not follow it, for a part with
            more than 16 KiB of header lines, or without any such part; 413 for more than `limit`
            parts.
    """
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    if not boundary:
        raise RequestError(
            400,
            f"Content-Type {content_type!r} has no boundary parameter, which separates the parts",
        )
    _check_heads(body, b"--" + boundary.encode("ascii", "ignore"), limit)
    try:
        parts = list(_parts(body, boundary.encode("ascii"), limit))
    except RequestEntityTooLarge:
        raise RequestError(
            413, f"the body has more than {limit} parts: send fewer images in one request"
        ) from None
    except ValueError as error:
        raise RequestError(
            400, f"the multipart body does not match its boundary {boundary!r}: {error}"
        ) from error
    contents = [content for head, content in parts if _is_image(head, content)]
    if not contents:
        raise RequestError(
            400,
            "the multipart body has no part with a file name and none that is an image"
            + "".join(f"; {_described(*part)}" for part in parts[:1])
            + ": send each image as a file (curl --form image=@photo.jpg)",
        )
    return contents


def _parts(body: bytes, boundary: bytes, limit: int) -> Iterator[tuple[Field | File, bytes]]:
    decoder = MultipartDecoder(boundary, max_parts=limit)
    decoder.receive_data(body)
    decoder.receive_data(None)
    head: Field | File | None = None
    pieces: list[bytes] = []
    while not isinstance(event := decoder.next_event(), (Epilogue, NeedData)):
        if isinstance(event, (Field, File)):
            head, pieces = event, []
        elif isinstance(event, Data) and head is not None:
            pieces.append(event.data)
            if not event.more_data:
                yield head, b"".join(pieces)


def _is_image(head: Field | File, content: bytes) -> bool:
    is_declared = head.headers.get("content-type", "").lower().startswith("image/")
    return isinstance(head, File) or is_declared or IMAGE.match(content) is not None


def _described(head: Field | File, content: bytes) -> str:
    found = name_text(content[:_SHOWN]) or f"{len(content)} bytes"
    return f"part {str(head.name)[:40]!r} is {found.partition(': ')[0]}"


def _check_heads(body: bytes, delimiter: bytes, limit: int) -> None:
    """Refuse millions of header lines before the parser holds Python's lock to read them."""
    start = body.find(delimiter)
    for _ in range(limit):
        if start < 0 or body.startswith(b"--", start + len(delimiter)):  # after it: an epilogue
            return
        found = _HEAD_END.search(body, start, start + _HEAD_LIMIT)
        if found is None:
            if len(body) - start > _HEAD_LIMIT:
                raise RequestError(
                    400,
                    f"a part of the multipart body has more than {_HEAD_LIMIT} bytes of "
                    "headers: send only Content-Disposition and Content-Type",
                )
            return
        start = body.find(delimiter, found.end())
