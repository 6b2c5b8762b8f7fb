"""The statuses of the server's answers, and the answer to a refused request."""

import json

from image_classification.serving.http import Answer

_MAX_MESSAGE = 2000  # characters: SageMaker passes on 2,048 of a refusal

STATUSES = (
    (200, "the answer; in a list, an unusable image has an `error` in its position"),
    (
        400,
        "no usable image: not an image, damaged, too large or too costly to decode; no usable "
        "image in a list; an empty or malformed body; bytes that are not valid HTTP/1.1",
    ),
    (404, "no such route"),
    (405, "a method that the route does not have; `Allow` names the right one"),
    (
        406,
        "the server cannot produce any media range of Accept, or a parameter of Accept is "
        "misspelled, has a wrong value or has two different values",
    ),
    (408, "the head did not arrive in time, or the body arrived too slowly"),
    (409, "a multi-model endpoint has already loaded this model"),
    (
        413,
        "more bytes than `MAX_CONTENT_LENGTH`, more images than a request can contain or than can "
        "be computed in `IMAGE_CLASSIFICATION_COMPUTE_TIMEOUT`, or an answer that is too large",
    ),
    (414, "a request line longer than 4,094 bytes"),
    (415, "a Content-Type or Content-Encoding that the server does not accept"),
    (417, "an Expect other than `100-continue`"),
    (431, "a head of more than 64 KiB or 100 fields, or a field of more than 8 KiB"),
    (499, "the client disconnected before its images were computed; only the log shows it"),
    (
        500,
        "a fault of the server, of the model or of your own code; the log has the details",
    ),
    (501, "a Transfer-Encoding other than `chunked`"),
    (
        503,
        "the queue or a memory limit is full, the request waited too long or arrived so slowly "
        "that it made room for others, or the server is stopping; retry after `Retry-After`",
    ),
    (507, "a multi-model endpoint has no memory, disk space or open files left for another model"),
)
"""Status and when the server sends it."""


def refusal(status: int, message: str) -> Answer:
    """Return the answer to a refused request: one line of JSON with the reason.

    A 503 has Retry-After, because the same request can succeed later.
    """
    headers = [("Content-Type", "application/json")]
    if status == 503:
        headers.append(("Retry-After", "1"))
    body = json.dumps({"error": one_line(message)}, ensure_ascii=False)
    return Answer(status, headers, body.encode())


def one_line(message: str) -> str:
    """Return the message on one line, no longer than SageMaker passes on.

    What UTF-8 cannot hold is escaped: the text of an error can be of the user's code.
    """
    line = " ".join(message.split())[:_MAX_MESSAGE]
    return line.encode("utf-8", "backslashreplace").decode()
