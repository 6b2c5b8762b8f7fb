"""JSON bodies and JSON lines → the encoded images in them.

Besides our own form, those of other services are read: TensorFlow Serving's `instances` with `b64`
and its columns, Hugging Face's `inputs` as text, Vertex AI's `content`, and `data:` URLs. Base64 is
read as RFC 4648 has it, and also with its URL-safe alphabet, without padding and in lines.
"""

from __future__ import annotations

import io
import json
import re
from urllib.parse import unquote

from image_classification.errors import RequestError
from image_classification.images.foreign import recognize
from image_classification.images.foreign_text import (
    IMAGE,
    from_base64,
    name_manifest,
    name_text,
)
from image_classification.serving.codec.answers import Failure

_KEYS = (
    *("image", "b64", "image_bytes", "data", "body"),
    *("content", "bytes", "base64", "image_base64", "img", "Image", "Bytes"),
)
_LIST_KEYS = ("instances", "images", "inputs", "requests")
_DEPTH = 4  # {"requests": [{"image": {"content": …}}]} and little deeper
_MOST_VALUES = 500_000  # 16 MB of `[],` take 450 MB and Python's lock for seconds, pings included
_HEAD = 4096
_SHOWN = 40  # characters of a value that an error repeats
_FEWEST = 16  # characters: shorter ones are a word

_WHOLE = 2**20  # bytes that are parsed in one call; 16 MiB take 50 ms with Python's lock
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")

_PIXELS = "these are pixels; send the image file itself"


def read_json(body: bytes, limit: int) -> tuple[list[bytes | Failure], bool]:
    """Return the images of a JSON body, and whether it could have held several.

    Of a list, at most one image more than `limit` is read.

    Raises:
        RequestError: 400, it is not JSON, or holds pixels instead of images; 413, too many values.
    """
    value = _unwrapped(_parse(body), _DEPTH)
    if not isinstance(value, list):
        return [_image_of(value)], False
    if value and all(isinstance(entry, (list, int, float)) for entry in value):
        found = name_text(str(value[:16]).encode()) or ""
        said = found if "bytes of an image" in found else _shape(value)
        if "number" in said:
            raise RequestError(400, f"expected images, got {said}")
    return [_image_of(entry) for entry in value[: limit + 1]], True


def read_json_lines(body: bytes, limit: int) -> list[bytes | Failure]:
    """Read one image from each line that is not empty; a line that is not JSON fails alone."""
    entries: list[bytes | Failure] = []
    for line in io.BytesIO(body):
        if len(entries) > limit:
            break
        if not line.strip():
            continue
        try:
            entries.append(_image_of(_parse(line)))
        except RequestError as error:
            entries.append(Failure(error.message))
    return entries


def _parse(text: bytes) -> object:
    # Each value but the first has a comma or a colon before it, or opens an array or an object.
    values = sum(map(text.count, (b",", b":", b"[", b"{")))
    if values > _MOST_VALUES:
        cure = "send fewer images in one request"
        if "numbers" in (name_text(text[:_HEAD]) or ""):
            cure = _PIXELS
        raise RequestError(
            413, f"the JSON has about {values} values, the limit is {_MOST_VALUES}: {cure}"
        )
    try:
        value = json.loads(text) if len(text) <= _WHOLE else _piece_by_piece(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, _not_json(text, error)) from error
    return value


def _piece_by_piece(body: bytes) -> object:
    """Return what json.loads returns, without holding Python's lock for all of the body."""
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    value, end = _outer_value(text, _skip_space(text, 0), 2)
    end = _skip_space(text, end)
    if end < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _outer_value(text: str, at: int, depth: int) -> tuple[object, int]:
    """Return the value at a position, and where it ends; its members one by one down to `depth`."""
    opening = text[at : at + 1]
    if depth == 0 or opening not in ("[", "{"):
        return _DECODER.raw_decode(text, at)
    closing = "]" if opening == "[" else "}"
    values: list[object] = []
    names: list[str] = []
    at = _skip_space(text, at + 1)
    while values or not text.startswith(closing, at):
        if closing == "}":
            name, at = _DECODER.raw_decode(text, at)
            at = _skip_space(text, at)
            if not isinstance(name, str) or not text.startswith(":", at):
                raise json.JSONDecodeError("Expecting a name and ':'", text, at)
            names.append(name)
            at = _skip_space(text, at + 1)
        value, at = _outer_value(text, at, depth - 1 if closing == "}" else 0)
        values.append(value)
        at = _skip_space(text, at)
        if not text.startswith(",", at):
            break
        at = _skip_space(text, at + 1)
    if not text.startswith(closing, at):
        raise json.JSONDecodeError(f"Expecting ',' or '{closing}'", text, at)
    return (values if closing == "]" else dict(zip(names, values, strict=True))), at + 1


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _not_json(text: bytes, error: Exception) -> str:
    expected = "expected JSON with the base64 text of an image, got "
    if found := IMAGE.match(text):
        kind = str(found.lastgroup)
        return f"{expected}the bytes of a {kind}: send them as image/{kind.lower()}"
    named = name_text(text[:_HEAD]) or ""
    if named.startswith("base64 text of"):
        return f"{expected}{named.partition(':')[0]} without quotes: put it in quotes"
    if "Extra data" in str(error):
        return f"{expected}several JSON values ({error}): send them as application/jsonlines"
    if named and "application/json" not in named:
        return expected + named
    return (
        f"{expected}{len(text)} bytes that are not JSON ({error}); send the image file itself as "
        "application/x-image, or encode it"
    )


def _unwrapped(value: object, depth: int) -> object:
    """Return what the keys of other services lead to: a text, a list, or something else."""
    if not isinstance(value, dict) or depth == 0:
        return value
    lists = [value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)]
    if lists:
        return lists[0]
    for key in (*_KEYS, *_LIST_KEYS):
        if key in value:
            return _unwrapped(value[key], depth - 1)
    return value


def _image_of(value: object) -> bytes | Failure:
    """Return the image in a JSON value."""
    found = _unwrapped(value, _DEPTH)
    if isinstance(found, list) and len(found) == 1 and found is not value:
        found = _unwrapped(found[0], _DEPTH)
    if isinstance(found, str):
        return _decoded(found)
    named = _named_object(found) if isinstance(found, dict) else None
    return Failure(
        f"expected the base64 text of an image file, got {named}"
        if named
        else 'expected the base64 text of an image file, as a string or under "image" or "b64", '
        f"got {_shape(found)}"
    )


def _decoded(text: str) -> bytes | Failure:
    """Return the bytes of base64 text or a data: URL.

    Bytes that are not an image are returned as they are, so that decoding names their format,
    unless the text is something else by chance: a word or a path is valid base64, too.
    """
    bare = text.partition(",")[2] if text[:5].lower() == "data:" else text
    content = from_base64(unquote(bare) if "%" in bare else bare)
    if content and IMAGE.match(content):
        return content
    named = recognize(text[:_HEAD].encode("utf-8", "replace"))
    if not text.strip():
        named = "an empty string"
    if text.lstrip().startswith(("{", "[")):
        named = "JSON in a string, which was encoded twice: send the object itself"
    is_base64 = named is None or "not of an accepted image" in named or text[:5].lower() == "data:"
    if content is not None and is_base64 and len(text) >= _FEWEST:
        return content
    if named is None:
        named = f"{len(text)} characters that are not base64, {text[:_SHOWN]!r}"
    return Failure(f"expected the base64 text of an image file, got {named}")


def _named_object(value: dict[str, object]) -> str | None:
    """Return what an object is that points to images elsewhere."""
    texts = {key[:_SHOWN]: str(value[key])[:_SHOWN] for key in list(value)[:8]}
    return name_manifest(json.dumps(texts))


def _shape(value: object) -> str:
    if isinstance(value, dict):
        keys = ", ".join(repr(key[:_SHOWN]) for key in list(value)[:5])
        return f"an object with {keys or 'nothing in it'}"
    if not isinstance(value, list):
        return repr(value)[:_SHOWN]
    sizes: list[int] = []
    inner: object = value
    while isinstance(inner, list) and inner and len(sizes) < _DEPTH + 1:
        sizes.append(len(inner))
        inner = inner[0]
    size = " × ".join(map(str, sizes))
    is_number = isinstance(inner, (int, float)) and not isinstance(inner, bool)
    if is_number and (len(sizes) > 1 or len(value) > 8):
        return f"an array of {size} numbers: {_PIXELS}"
    return f"an array of {size or 0} values"
