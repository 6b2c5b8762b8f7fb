"""The files of a `multipart/form-data` body (RFC 7578), as `curl --form` and browsers send them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from image_classification.errors import RequestError

_HEAD_LIMIT = 16 * 2**10  # bytes of a part's header lines; each line costs the parser a microsecond
_HEAD_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def read_multipart(body: bytes, content_type: str, max_parts: int) -> Sequence[bytes]:
    """The contents of the parts that have a file name, in order.

    Args:
        body: of the request.
        content_type: the whole header, with its boundary.
        max_parts: more are refused.

    Raises:
        RequestError: 400 without a boundary, for a body that does not follow it, or for a part
            with more than 16 KiB of header lines; 413 for more parts than `max_parts`.
    """
    from werkzeug.exceptions import RequestEntityTooLarge
    from werkzeug.formparser import MultiPartParser
    from werkzeug.http import parse_options_header

    boundary = parse_options_header(content_type)[1].get("boundary", "")
    if not boundary:
        raise RequestError(
            400, f"Content-Type {content_type!r} names no boundary between the parts"
        )
    _check_heads(body, b"--" + boundary.encode("ascii", "ignore"), max_parts)
    # Parts stay in memory, as the body is already; a disk may be read-only.
    parser = MultiPartParser(lambda *_, **__: io.BytesIO(), max_form_parts=max_parts)
    try:
        _, files = parser.parse(io.BytesIO(body), boundary.encode("ascii"), len(body))
    except RequestEntityTooLarge:
        raise RequestError(
            413, f"the body has more than {max_parts} parts: send fewer images in one request"
        ) from None
    except ValueError as error:
        raise RequestError(
            400, f"the multipart body does not follow its boundary {boundary!r}: {error}"
        ) from error
    contents = [file.stream.read() for _, file in files.items(multi=True)]
    if not contents:
        raise RequestError(
            400,
            "the multipart body has no part with a file name: send each image as a file "
            "(curl --form image=@photo.jpg)",
        )
    return contents


def _check_heads(body: bytes, delimiter: bytes, max_parts: int) -> None:
    """Refuse header lines by the million before the parser holds Python's lock over them."""
    start = body.find(delimiter)
    for _ in range(max_parts):
        if start < 0 or body.startswith(b"--", start + len(delimiter)):  # after it: an epilogue
            return
        found = _HEAD_END.search(body, start, start + _HEAD_LIMIT)
        if found is None:
            if len(body) - start > _HEAD_LIMIT:
                raise RequestError(
                    400, f"a part of the multipart body has more than {_HEAD_LIMIT} bytes of header"
                )
            return
        start = body.find(delimiter, found.end())
