"""Content-Type and body → the encoded images of a request, in order.

A body is one image or a list of images. In a list, an entry that is not an image is a `Failure` in
its position; only a body that cannot be split into entries is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from image_classification.errors import ImageFormatError, RecordError, RequestError
from image_classification.images.foreign import name_foreign
from image_classification.images.foreign_text import IMAGE, name_text
from image_classification.images.header import sniff
from image_classification.records import format as records
from image_classification.serving.codec.accept import JSON, JSON_LINES, JSON_LINES_NAMES
from image_classification.serving.codec.answers import Failure
from image_classification.serving.codec.json_bodies import read_json, read_json_lines
from image_classification.serving.codec.multipart import read_parts

DEFAULT_CONTENT_TYPE = "application/x-image"
_HEAD = 4096  # bytes of a body that tell what it is
_GZIP = b"\x1f\x8b"
_FORM_OF_CURL = "application/x-www-form-urlencoded"  # what curl declares a body without a type as

MAX_IMAGES = 10_000
"""Most images in one request: the answer to many tiny entries is much larger than the body."""

CODE_IN_DATA = ("application/x-npy", "application/x-npz", "application/x-pickle")
"""Refused even if the user's own code would read them."""

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
    form = _form_of(header, body)
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


def may_hold_many(content_type: str | None) -> bool:
    """Whether bodies of a content type can hold several images."""
    media_type = media_type_of(content_type or DEFAULT_CONTENT_TYPE)
    many = (form for form in FORMS if form.read is not _read_one)
    return any(media_type in (*form.media_types, *form.other_names) for form in many)


def content_types() -> list[str]:
    """Return every content type that is accepted by name."""
    return [name for form in FORMS for name in form.media_types if not name.endswith("/*")]


def _form_of(header: str, body: bytes) -> BodyForm:
    media_type = media_type_of(header)
    kind = media_type.split("/")[0] + "/*"
    for form in FORMS:
        if media_type in (*form.media_types, *form.other_names) or kind in form.media_types:
            return form
    reason = ""
    if media_type in CODE_IN_DATA:
        reason = " because its files can contain code (pickles)"
    elif media_type == "application/x-recordio-protobuf":
        reason = ": it contains Amazon's protobuf records, not images"
    elif found := IMAGE.match(body):
        reason = f": this body is a {found.lastgroup}"
    elif named := name_text(body[:_HEAD]):
        reason = f": this body is {named.partition(': ')[0]}"
    raise _unsupported(media_type, reason)


def _unsupported(media_type: str, reason: str) -> RequestError:
    accepted = ", ".join(name for form in FORMS for name in form.media_types)
    return RequestError(
        415, f"Content-Type {media_type!r} is not accepted{reason}: send images as {accepted}"
    )


def _read_one(body: bytes, header: str) -> Images:
    if media_type_of(header) == _FORM_OF_CURL and not IMAGE.match(body):
        raise _unsupported(
            _FORM_OF_CURL,
            f" for {name_foreign(body).partition(': ')[0]} (curl needs --data-binary @photo.jpg "
            "--header 'Content-Type: image/jpeg'; --data alters a file)",
        )
    if body.startswith(_GZIP):
        try:
            sniff(body)
        except ImageFormatError as error:
            reason = f"the image cannot be used: {error}, or send it with Content-Encoding: gzip"
            return Images([Failure(reason)], is_list=False)
    return Images([body], is_list=False)


def _read_json(body: bytes, _: str) -> Images:
    return Images(*read_json(body, MAX_IMAGES))


def _read_json_lines(body: bytes, _: str) -> Images:
    return Images(read_json_lines(body, MAX_IMAGES), is_list=True)


def _read_multipart(body: bytes, header: str) -> Images:
    return Images(read_parts(body, header, MAX_IMAGES), is_list=True)


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
    if not payload:
        return Failure("the record is empty: expected an image file or an im2rec record")
    try:
        sniff(payload)
    except ImageFormatError as foreign:
        # No image format begins as an im2rec header does: with zeros, or a small number of labels.
        try:
            return records.unpack_image_record(payload).content
        except RecordError as error:
            return Failure(f"neither an image nor an im2rec record ({error}): {foreign}")
    return payload


@dataclass(frozen=True)
class BodyForm:
    """How the bodies of some content types are read.

    Attributes:
        media_types: in lower case; one that ends with `/*` means every type of that kind.
        other_names: that clients also use for the same bodies.
        meaning, shape: what the body holds and what its answer is, for people.
        read: (body, whole Content-Type header) → images; a malformed body is a RequestError 400.
    """

    media_types: tuple[str, ...]
    meaning: str
    shape: str
    read: Callable[[bytes, str], Images]
    other_names: tuple[str, ...] = ()


FORMS = (
    BodyForm(
        ("application/x-image", "image/jpeg", "image/png", "image/*", "application/octet-stream"),
        "the bytes of one image file: JPEG, PNG, GIF, WEBP, BMP, TIFF, AVIF or PPM, recognized "
        "by its first bytes",
        "of one image",
        _read_one,
        ("binary/octet-stream", _FORM_OF_CURL),
    ),
    BodyForm(
        (JSON,),
        'the base64 text of an image file as `"…"`, `{"image": "…"}` or `{"b64": "…"}`; several as '
        'an array or as `{"instances": […]}`. The server also reads `data:` URLs, `{"inputs": '
        '"…"}` and `{"content": "…"}`',
        "of one image, or a list",
        _read_json,
        ("text/json",),
    ),
    BodyForm(
        (JSON_LINES,),
        "one of these JSON values per line; empty lines are skipped",
        "a list, as JSON lines unless Accept wants another form",
        _read_json_lines,
        JSON_LINES_NAMES,
    ),
    BodyForm(
        ("multipart/form-data",),
        "several image files: each part that has a file name, the Content-Type of an image, or the "
        "bytes of an image; other fields are skipped",
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
