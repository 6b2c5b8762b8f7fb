"""Content-Type and body → the encoded images of a request, in order.

A body is one image or a list of images. In a list, an entry that is not an image is a `Failure` in
its position; only a body that cannot be split into entries is refused as a whole.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from image_classification.errors import ImageFormatError, RecordError, RequestError
from image_classification.images.header import sniff
from image_classification.records import format as records
from image_classification.serving.codec.answers import JSON, JSON_LINES, Failure

DEFAULT_CONTENT_TYPE = "application/x-image"

MAX_IMAGES = 10_000
"""Most images in one request: the answer to many tiny entries is much larger than the body."""

CODE_IN_DATA = ("application/x-npy", "application/x-npz", "application/x-pickle")
"""Refused even if the user's own code would read them."""

_KEYS = ("image", "b64", "image_bytes", "data", "body")
_LIST_KEYS = ("instances", "images", "inputs")
_DEPTH = 3  # {"inputs": {"image_bytes": {"b64": …}}} and no deeper
_MOST_VALUES = 500_000  # 16 MB of `[],` take 450 MB and Python's lock for seconds, pings included
_SHOWN = 40  # characters of a value that an error repeats

_HEAD_LIMIT = 16 * 2**10  # bytes of a part's header lines; each line costs the parser a microsecond
_HEAD_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")

_PARTS_PER_RECORD = 4  # of RecordIO; a record has a second one if its payload holds the magic
_MOST_PARTS = _PARTS_PER_RECORD * (MAX_IMAGES + 1)


@dataclass(frozen=True)
class Images:
    """The images of a request.

    Attributes:
        entries: for each image, the bytes of its file or the reason why there are none.
        is_list: whether the body could have held several; then the answer is a list too.
    """

    entries: Sequence[bytes | Failure]
    is_list: bool


def read_images(body: bytes, content_type: str | None) -> Images:
    """Return the images of a body.

    Args:
        body: of the request; may be empty.
        content_type: the header with its parameters; None and "" mean `application/x-image`.

    Raises:
        RequestError: 415 for another content type; 400 for a malformed body or one without an
            image; 413 for more than `MAX_IMAGES`.
    """
    header = content_type or DEFAULT_CONTENT_TYPE
    form = _form_of(header)
    if not body:
        raise RequestError(400, "the body is empty: send the bytes of one JPEG or PNG image")
    images = form.read(body, header)
    if not images.entries:
        raise RequestError(
            400, f"the {media_type_of(header)} body contains no image: send at least one"
        )
    if len(images.entries) > MAX_IMAGES:
        raise RequestError(
            413, f"the body contains more than {MAX_IMAGES} images: send fewer in one request"
        )
    return images


def media_type_of(header: str) -> str:
    """Return the media type of a Content-Type header, in lower case and without parameters."""
    return header.split(";")[0].strip().lower()


def content_types() -> list[str]:
    """Return every content type that is accepted by name."""
    return [name for form in FORMS for name in form.media_types if not name.endswith("/*")]


def _form_of(header: str) -> BodyForm:
    media_type = media_type_of(header)
    kind = media_type.split("/")[0] + "/*"
    for form in FORMS:
        if media_type in form.media_types or kind in form.media_types:
            return form
    accepted = ", ".join(name for form in FORMS for name in form.media_types)
    reason = ""
    if media_type in CODE_IN_DATA:
        reason = " because its files can contain code (pickles)"
    elif media_type == "application/x-recordio-protobuf":
        reason = ": it contains Amazon's protobuf records, not images"
    raise RequestError(
        415, f"Content-Type {media_type!r} is not accepted{reason}: send images as {accepted}"
    )


def _read_one(body: bytes, _: str) -> Images:
    return Images([body], is_list=False)


# One more than the limit is read below, so that `read_images` sees that there are more.
def _read_json(body: bytes, _: str) -> Images:
    value = _parse(body)
    if isinstance(value, dict):
        lists = [value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)]
        value = lists[0] if lists else value
    if isinstance(value, list):
        return Images([_decode(entry) for entry in value[: MAX_IMAGES + 1]], is_list=True)
    return Images([_decode(value)], is_list=False)


def _read_json_lines(body: bytes, _: str) -> Images:
    """Read one image from each line that is not empty; a line that is not JSON fails alone."""
    entries: list[bytes | Failure] = []
    for line in io.BytesIO(body):
        if len(entries) > MAX_IMAGES:
            break
        if not line.strip():
            continue
        try:
            entries.append(_decode(_parse(line)))
        except RequestError as error:
            entries.append(Failure(error.message))
    return Images(entries, is_list=True)


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
            f"expected JSON with the base64 text of an image, got {len(text)} bytes that are not "
            f"JSON ({error}); send the image file itself as application/x-image, or encode it",
        ) from error
    return value


def _decode(value: object) -> bytes | Failure:
    """Return the image in a JSON value."""
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
            f"expected the base64 text of an image file, got {len(text)} characters that are not "
            f"valid base64 ({error})"
        )


def _find_text(value: object, depth: int) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and depth > 0:
        for key in _KEYS:
            if key in value:
                return _find_text(value[key], depth - 1)
    return None


def _shape(value: object) -> str:
    if isinstance(value, dict):
        keys = ", ".join(repr(key[:_SHOWN]) for key in list(value)[:5])
        return f"an object with {keys or 'nothing in it'}"
    if isinstance(value, list):
        return f"an array of {len(value)} values"
    return repr(value)[:_SHOWN]


def _read_multipart(body: bytes, content_type: str) -> Images:
    """Read the parts that have a file name.

    Raises:
        RequestError: 400 without a boundary, for a body that does not follow it, or for a part
            with more than 16 KiB of header lines; 413 for too many parts.
    """
    from werkzeug.exceptions import RequestEntityTooLarge
    from werkzeug.formparser import MultiPartParser
    from werkzeug.http import parse_options_header

    boundary = parse_options_header(content_type)[1].get("boundary", "")
    if not boundary:
        raise RequestError(
            400,
            f"Content-Type {content_type!r} has no boundary parameter, which separates the parts",
        )
    _check_heads(body, b"--" + boundary.encode("ascii", "ignore"))
    # Parts stay in memory, where the body is already; a disk may be read-only.
    parser = MultiPartParser(lambda *_, **__: io.BytesIO(), max_form_parts=MAX_IMAGES)
    try:
        _, files = parser.parse(io.BytesIO(body), boundary.encode("ascii"), len(body))
    except RequestEntityTooLarge:
        raise RequestError(
            413, f"the body has more than {MAX_IMAGES} parts: send fewer images in one request"
        ) from None
    except ValueError as error:
        raise RequestError(
            400, f"the multipart body does not match its boundary {boundary!r}: {error}"
        ) from error
    contents = [file.stream.read() for _, file in files.items(multi=True)]
    if not contents:
        raise RequestError(
            400,
            "the multipart body has no part with a file name: send each image as a file "
            "(curl --form image=@photo.jpg)",
        )
    return Images(contents, is_list=True)


def _check_heads(body: bytes, delimiter: bytes) -> None:
    """Refuse millions of header lines before the parser holds Python's lock to read them."""
    start = body.find(delimiter)
    for _ in range(MAX_IMAGES):
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


def _read_records(body: bytes, _: str) -> Images:
    """Read framed records, or one payload without a frame.

    Raises:
        RequestError: 400, broken framing, after which no record can be found; 413, many more
            physical parts than images.
    """
    if not body.startswith(records.MAGIC_BYTES):
        return Images([_image_in(body)], is_list=False)
    if body.count(records.MAGIC_BYTES) > _MOST_PARTS:
        raise RequestError(
            413,
            f"the RecordIO body has more than {_MOST_PARTS} parts: send fewer records in one "
            "request",
        )
    entries: list[bytes | Failure] = []
    position = 0
    while position < len(body) and len(entries) <= MAX_IMAGES:
        try:
            ranges = records.follow_record(body, position)
        except records.PartDamage as damage:
            raise RequestError(
                400,
                f"the RecordIO body is damaged at byte {damage.position}, record {len(entries)}: "
                f"{damage}; send whole records",
            ) from damage
        payload = records.MAGIC_BYTES.join(body[begin:end] for begin, end in ranges)
        entries.append(_image_in(payload))
        position = records.padded(ranges[-1][1])
    return Images(entries, is_list=True)


def _image_in(payload: bytes) -> bytes | Failure:
    try:
        sniff(payload)
    except ImageFormatError:
        # No image format begins as an im2rec header does: with zeros, or a small number of labels.
        try:
            return records.unpack_image_record(payload).content
        except RecordError as error:
            return Failure(f"neither an image nor an im2rec record: {error}")
    return payload


@dataclass(frozen=True)
class BodyForm:
    """How the bodies of some content types are read.

    Attributes:
        media_types: in lower case; one that ends with `/*` means every type of that kind.
        meaning, shape: what the body holds and what its answer is, for people.
        read: (body, whole Content-Type header) → images; a malformed body is a RequestError 400.
    """

    media_types: tuple[str, ...]
    meaning: str
    shape: str
    read: Callable[[bytes, str], Images]


FORMS = (
    BodyForm(
        ("application/x-image", "image/jpeg", "image/png", "image/*", "application/octet-stream"),
        "the bytes of one image file: JPEG, PNG, GIF, WEBP or BMP, recognized by its first bytes",
        "of one image",
        _read_one,
    ),
    BodyForm(
        (JSON,),
        'the base64 text of an image file as `"…"`, `{"image": "…"}` or `{"b64": "…"}`; several as '
        'an array or as `{"instances": […]}`',
        "of one image, or a list",
        _read_json,
    ),
    BodyForm(
        (JSON_LINES,),
        "one of these JSON values per line; empty lines are skipped",
        "a list, as JSON lines unless Accept wants another form",
        _read_json_lines,
    ),
    BodyForm(
        ("multipart/form-data",),
        "several image files, each a part with a file name; other fields are skipped",
        "a list",
        _read_multipart,
    ),
    BodyForm(
        ("application/x-recordio",),
        "records as im2rec writes them, or framed image files (SplitType=RecordIO); without "
        "frames, the payload of one record",
        "a list; without frames, of one image",
        _read_records,
    ),
)
