"""How requests are answered, from the environment; read before anything listens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from image_classification.contract import environment
from image_classification.errors import RequestError, UserError
from image_classification.serving.codec.accept import (
    JSON,
    JSON_LINES,
    Accept,
    parse_accept,
    parse_threshold,
    parse_top_k,
)


@dataclass(frozen=True)
class RequestSettings:
    """What the environment says about requests and answers.

    Attributes:
        max_content_length: bytes; a larger body is refused with 413.
        default_accept: what a request without Accept, or with `*/*`, gets; "" leaves it to the
            form of the body.
        top_k, threshold: of verbose answers whose Accept has neither.
        is_placeholder: whether an image that cannot be used is answered 200 with an error line.
    """

    max_content_length: int = 16 * 2**20
    default_accept: str = ""
    top_k: int | None = None
    threshold: float | None = None
    is_placeholder: bool = False

    def accept(self, header: str | None, default: str = JSON) -> Accept:
        """What the caller wants.

        Args:
            header: the Accept header, or None.
            default: what the form of the body suggests, where the environment has no default.

        Raises:
            RequestError: 406, see `parse_accept`.
        """
        accept = parse_accept(header, self.default_accept or default)
        if accept.is_verbose and not accept.is_selection:
            return replace(accept, top_k=self.top_k, threshold=self.threshold)
        return accept


def read_settings() -> RequestSettings:
    """The settings of the environment; a UserError names a variable with an impossible value."""
    is_batch = environment.IS_BATCH.read_switch()
    default_accept = environment.DEFAULT_ACCEPT.read()
    try:
        parse_accept(default_accept, JSON)
    except RequestError as error:
        raise UserError(f"{environment.DEFAULT_ACCEPT.name}: {error}") from error
    top_k, threshold = environment.TOP_K.read(), environment.THRESHOLD.read()
    try:
        return RequestSettings(
            environment.max_content_length(),
            default_accept or (JSON_LINES if is_batch else ""),
            parse_top_k(top_k) if top_k else None,
            parse_threshold(threshold) if threshold else None,
            is_batch and environment.BATCH_PLACEHOLDER.read_switch(),
        )
    except RequestError as error:
        names = f"{environment.TOP_K.name}, {environment.THRESHOLD.name}"
        raise UserError(f"{names}: {error}") from error
