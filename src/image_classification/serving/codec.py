"""Two tables: content type → encoded images, and accept → body of the answer.

Accept is parsed as users write it: `application/json;verbose`, `application/json; verbose`, with
further parameters, several alternatives, or nothing at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from image_classification.errors import RequestError
from image_classification.serving.prediction import Prediction

JSON = "application/json"
JSON_LINES = "application/jsonlines"

IMAGE_CONTENT_TYPES = ("application/x-image", "image/jpeg", "image/jpg", "image/png")
"""Bodies that are one encoded image. The bytes are looked at, not the name: see data/images."""

DEFAULT_CONTENT_TYPE = "application/x-image"


@dataclass(frozen=True)
class Accept:
    """What the caller wants: a media type and whether labels come with the numbers."""

    media_type: str
    is_verbose: bool = False


def parse_content_type(header: str | None) -> str:
    """The accepted content type in `header`; a RequestError 415 otherwise."""
    content_type = (header or DEFAULT_CONTENT_TYPE).split(";")[0].strip().lower()
    if content_type not in IMAGE_CONTENT_TYPES:
        raise RequestError(
            415,
            f"Content-Type {content_type!r} is not accepted: send the bytes of one image as "
            + ", ".join(IMAGE_CONTENT_TYPES),
        )
    return content_type


def parse_accept(header: str | None, default: str) -> Accept:
    """The first of the caller's alternatives that can be produced; a RequestError 406 if none.

    Args:
        header: the Accept header; None, "" and "*/*" mean `default`.
        default: an accept such as `application/json;verbose`.
    """
    alternatives = [part.strip() for part in (header or "").split(",") if part.strip()]
    wanted = sorted(alternatives, key=_quality, reverse=True)
    for alternative in [part for part in wanted if _quality(part) > 0] if wanted else [default]:
        accept = _parse_alternative(alternative, default)
        if accept is not None:
            return accept
    raise RequestError(
        406,
        f"Accept {header!r} cannot be produced; accepted: "
        + ", ".join(f"{media_type}, {media_type};verbose" for media_type in ENCODERS),
    )


def _quality(alternative: str) -> float:
    """The weight `q` of an alternative, 0 to 1; 1 without one (RFC 9110, 12.4.2)."""
    for parameter in alternative.split(";")[1:]:
        name, _, value = parameter.strip().lower().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _parse_alternative(alternative: str, default: str) -> Accept | None:
    media_type, *parameters = [part.strip().lower() for part in alternative.split(";")]
    if media_type in {"*/*", "application/*"}:
        default_type, *default_parameters = [part.strip() for part in default.split(";")]
        media_type = default_type.lower()
        parameters += [parameter.lower() for parameter in default_parameters]
    if media_type not in ENCODERS:
        return None
    return Accept(media_type, "verbose" in parameters)


def encode(predictions: Sequence[Prediction], accept: Accept, interface: str) -> tuple[bytes, str]:
    """(body, content type) of the answer, in the form of the interface's built-in."""
    return ENCODERS[accept.media_type](predictions, accept, interface)


def _encode_json(
    predictions: Sequence[Prediction], accept: Accept, interface: str
) -> tuple[bytes, str]:
    (prediction,) = predictions
    if accept.is_verbose:
        return _dumps(_verbose(prediction)), JSON
    if interface == "mxnet":
        return _dumps(prediction.probabilities.tolist()), JSON
    return _dumps({"probabilities": prediction.probabilities.tolist()}), JSON


def _encode_json_lines(
    predictions: Sequence[Prediction], accept: Accept, interface: str
) -> tuple[bytes, str]:
    name = "prediction" if interface == "mxnet" else "probabilities"
    lines = [
        _verbose(prediction) if accept.is_verbose else {name: prediction.probabilities.tolist()}
        for prediction in predictions
    ]
    return b"".join(_dumps(line) + b"\n" for line in lines), JSON_LINES


def _verbose(prediction: Prediction) -> dict[str, object]:
    answer: dict[str, object] = {
        "probabilities": prediction.probabilities.tolist(),
        "labels": list(prediction.labels.names),
        "predicted_label": prediction.label,
    }
    if prediction.is_multi_label:
        answer["predicted_labels"] = prediction.predicted_labels
    return answer


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8")


Encoder = Callable[[Sequence[Prediction], Accept, str], tuple[bytes, str]]

ENCODERS: dict[str, Encoder] = {JSON: _encode_json, JSON_LINES: _encode_json_lines}
