"""Content type and body → the encoded images of a request, in order.

A body is one image or a list of images. In a list, an entry that is no image is a `Failure` in its
place; only a body that cannot be taken apart is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from image_classification.errors import RequestError
from image_classification.serving.codec.accept import JSON, JSON_LINES
from image_classification.serving.codec.base64_images import read_json, read_json_lines
from image_classification.serving.codec.multipart import read_multipart
from image_classification.serving.codec.record_bodies import read_records
from image_classification.serving.prediction import Failure

DEFAULT_CONTENT_TYPE = "application/x-image"

MAX_IMAGES = 10_000
"""Images in one request: a body of many tiny entries costs an answer much larger than itself."""

CODE_IN_DATA = ("application/x-npy", "application/x-npz", "application/x-pickle")
"""Refused also where the user's own code would read them."""


@dataclass(frozen=True)
class Images:
    """The images of a request.

    Attributes:
        entries: the bytes of an image file each, or why there are none.
        is_list: whether the body could have held several; the answer is a list then too.
    """

    entries: Sequence[bytes | Failure]
    is_list: bool


@dataclass(frozen=True)
class BodyForm:
    """How the bodies of some content types are read.

    Attributes:
        media_types: in lower case; one that ends with `/*` is every type of that kind.
        meaning, shape: what the body is and what its answer is, for people.
        read: (body, whole Content-Type header) → images; a RequestError 400 for a body that
            cannot be taken apart.
    """

    media_types: tuple[str, ...]
    meaning: str
    shape: str
    read: Callable[[bytes, str], Images]


def _one_image(body: bytes, _: str) -> Images:
    return Images([body], is_list=False)


# One more than the limit is read, so that `read_images` sees that there are more.
def _json(body: bytes, _: str) -> Images:
    return Images(*read_json(body, MAX_IMAGES + 1))


def _json_lines(body: bytes, _: str) -> Images:
    return Images(read_json_lines(body, MAX_IMAGES + 1), is_list=True)


def _multipart(body: bytes, content_type: str) -> Images:
    return Images(read_multipart(body, content_type, MAX_IMAGES), is_list=True)


def _records(body: bytes, _: str) -> Images:
    return Images(*read_records(body, MAX_IMAGES + 1))


FORMS = (
    BodyForm(
        ("application/x-image", "image/jpeg", "image/png", "image/*", "application/octet-stream"),
        "the bytes of one image file: JPEG, PNG, GIF, WEBP or BMP, told by its first bytes",
        "of one image",
        _one_image,
    ),
    BodyForm(
        (JSON,),
        'the base64 text of an image file as `"…"`, `{"image": "…"}` or `{"b64": "…"}`; several as '
        'an array or as `{"instances": […]}`',
        "of one image, or a list",
        _json,
    ),
    BodyForm(
        (JSON_LINES,),
        "one of these JSON values a line; empty lines do not count",
        "a list, as JSON lines where Accept leaves it open",
        _json_lines,
    ),
    BodyForm(
        ("multipart/form-data",),
        "several image files, each a part with a file name; the other fields do not count",
        "a list",
        _multipart,
    ),
    BodyForm(
        ("application/x-recordio",),
        "records as im2rec writes them, or framed image files (SplitType=RecordIO); without "
        "frames, the payload of one record",
        "a list; without frames, of one image",
        _records,
    ),
)


def content_types() -> list[str]:
    """Every content type that is accepted by name."""
    return [name for form in FORMS for name in form.media_types if not name.endswith("/*")]


def read_images(body: bytes, content_type: str | None) -> Images:
    """The images of a body.

    Args:
        body: of the request; may be empty.
        content_type: the header with its parameters; None and "" mean `application/x-image`.

    Raises:
        RequestError: 415 for another content type; 400 for a body that cannot be taken apart or
            holds no image; 413 for more than `MAX_IMAGES`.
    """
    header = content_type or DEFAULT_CONTENT_TYPE
    form = _form_of(header)
    if not body:
        raise RequestError(400, "the body is empty: send the bytes of one JPEG or PNG image")
    images = form.read(body, header)
    if not images.entries:
        raise RequestError(
            400, f"the {media_type_of(header)} body holds no image: send one or more"
        )
    if len(images.entries) > MAX_IMAGES:
        raise RequestError(
            413,
            f"the body holds more than {MAX_IMAGES} images: send fewer in one request",
        )
    return images


def media_type_of(header: str) -> str:
    """The media type of a Content-Type header, in lower case and without its parameters."""
    return header.split(";")[0].strip().lower()


def _form_of(header: str) -> BodyForm:
    media_type = media_type_of(header)
    kind = media_type.split("/")[0] + "/*"
    for form in FORMS:
        if media_type in form.media_types or kind in form.media_types:
            return form
    accepted = ", ".join(name for form in FORMS for name in form.media_types)
    reason = ""
    if media_type in CODE_IN_DATA:
        reason = " because its files can hold code (pickles)"
    elif media_type == "application/x-recordio-protobuf":
        reason = ": it holds Amazon's protobuf records, not images"
    raise RequestError(
        415, f"Content-Type {media_type!r} is not accepted{reason}: send images as {accepted}"
    )
