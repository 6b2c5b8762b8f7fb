"""What the server says over HTTP: tables that docs/http.md and the answers to mistakes use."""

from __future__ import annotations

from image_classification.contract import environment
from image_classification.errors import RequestError

ROUTES = (
    ("GET", "/ping", "200 with an empty body once the model has answered a real image"),
    ("POST", "/invocations", "the predictions of the images in the body"),
    (
        "GET",
        "/execution-parameters",
        "what a transform job uses where it did not choose: concurrency, strategy, payload",
    ),
    ("GET", "/metrics", "Prometheus' text, where `IMAGE_CLASSIFICATION_METRICS` is true"),
    (
        "POST",
        "/models",
        "multi-model endpoint: load a model; 409 it is there, 507 no memory for it",
    ),
    ("GET", "/models", "multi-model endpoint: the loaded models, a page at a time"),
    ("GET", "/models/<name>", "multi-model endpoint: one of them; 404 it is not loaded"),
    ("DELETE", "/models/<name>", "multi-model endpoint: unload it once nobody uses it"),
    ("POST", "/models/<name>/invoke", "multi-model endpoint: what /invocations is elsewhere"),
    ("GET", "/", "a page to try the model with, where `IMAGE_CLASSIFICATION_PAGE` is true"),
)
"""Method, path and meaning."""

STATUSES = (
    (200, "the answer; in a list, an image that cannot be used is an `error` in its place"),
    (400, "no usable image: not an image, damaged, too many pixels, an empty or broken body"),
    (404, "no such route"),
    (405, "another method; `Allow` names the right one"),
    (406, "no media range of Accept can be produced, or `top_k` or `threshold` is impossible"),
    (408, "the head or the body did not arrive in time"),
    (409, "a multi-model endpoint has this model already"),
    (413, "more bytes than `MAX_CONTENT_LENGTH`, or more images than a request may hold"),
    (414, "a request line longer than 4,094 bytes"),
    (415, "a Content-Type that holds no images"),
    (417, "an Expect other than `100-continue`"),
    (431, "a head of more than 64 KiB or 100 fields, or a field of more than 8 KiB"),
    (499, "the caller was gone before its turn; only the log sees it"),
    (500, "a fault of the server or of the user's own code; the log has its trace"),
    (501, "a Transfer-Encoding other than `chunked`"),
    (503, "as many requests wait as may; `Retry-After` says when to come again"),
    (507, "a multi-model endpoint has no memory for another model"),
)
"""Status and when it is answered."""

HEADERS = (
    ("Content-Type", "of the body; without it `application/x-image`"),
    (
        "Accept",
        "what to answer; without it or with `*/*` `SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT`, else "
        "`application/jsonlines` in a transform job or for a body of JSON lines, else "
        "`application/json`",
    ),
    (
        "X-Amzn-SageMaker-Custom-Attributes",
        "comes back as it was sent: at most 1,024 visible US-ASCII characters",
    ),
)
"""Request header and meaning; others are ignored."""


def routes() -> str:
    """The routes in one line, for the answer to an unknown one."""
    return ", ".join(f"{method} {path}" for method, path, _ in ROUTES[:3])


def body_too_large(length: int | None, limit: int) -> RequestError:
    """The refusal of a body of `length` bytes; None: of more than the limit, in chunks."""
    came = f"{length} bytes" if length is not None else "more"
    return RequestError(
        413,
        f"the body has {came}, the limit is {limit} bytes: send a smaller image or set "
        f"{environment.MAX_CONTENT_LENGTH.name}",
    )
