"""Image files as base64 text in JSON and JSON Lines.

An image is a string, or an object that holds one under a name of `_NAMES`, as TensorFlow Serving's
`{"b64": …}` and most clients write it. A `data:` URL counts as the base64 text in it.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Sequence

from image_classification.errors import RequestError
from image_classification.serving.prediction import Failure

_NAMES = ("image", "b64", "image_bytes", "data", "body")
_LIST_NAMES = ("instances", "images", "inputs")
_DEPTH = 3  # {"inputs": {"image_bytes": {"b64": …}}} and no deeper
_MOST_VALUES = 500_000  # 16 MB of `[],` take 450 MB and Python's lock for seconds, pings included
_SHOWN = 40  # characters of what came that an error repeats


def read_json(body: bytes, limit: int) -> tuple[Sequence[bytes | Failure], bool]:
    """(at most `limit` images, whether the body is a list); a RequestError 400 for no JSON."""
    value = _parse(body)
    if isinstance(value, dict):
        for name in _LIST_NAMES:
            if isinstance(value.get(name), list):
                value = value[name]
                break
    if isinstance(value, list):
        return [_decode(entry) for entry in value[:limit]], True
    return [_decode(value)], False


def read_json_lines(body: bytes, limit: int) -> list[bytes | Failure]:
    """The image of each of the first `limit` lines that are not empty.

    A line that is no JSON fails alone.
    """
    entries: list[bytes | Failure] = []
    for line in io.BytesIO(body):
        if len(entries) == limit:
            break
        if not line.strip():
            continue
        try:
            entries.append(_decode(_parse(line)))
        except RequestError as error:
            entries.append(Failure(error.message))
    return entries


def _parse(text: bytes) -> object:
    # Each value but the first has a comma or a colon before it, or opens an array or an object.
    values = sum(map(text.count, (b",", b":", b"[", b"{")))
    if values > _MOST_VALUES:
        raise RequestError(
            413,
            f"the JSON has about {values} values, the limit is {_MOST_VALUES}: send fewer images "
            "in one request",
        )
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            400,
            f"expected JSON with the base64 text of an image, got {len(text)} bytes that are none "
            f"({error}); send the image file itself as application/x-image, or encode it",
        ) from error
    return value


def _decode(value: object) -> bytes | Failure:
    """The image in a JSON value."""
    text = _find_text(value, _DEPTH)
    if text is None:
        return Failure(
            'expected the base64 text of an image file, as a string or under "image" or "b64", '
            f"got {_shape(value)}"
        )
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return Failure(
            f"expected the base64 text of an image file, got {len(text)} characters that are none "
            f"({error})"
        )


def _find_text(value: object, depth: int) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and depth > 0:
        for name in _NAMES:
            if name in value:
                return _find_text(value[name], depth - 1)
    return None


def _shape(value: object) -> str:
    if isinstance(value, dict):
        names = ", ".join(repr(name[:_SHOWN]) for name in list(value)[:5])
        return f"an object with {names or 'nothing in it'}"
    if isinstance(value, list):
        return f"an array of {len(value)} values"
    return repr(value)[:_SHOWN]
