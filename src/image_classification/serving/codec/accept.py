"""The Accept header → which body the caller wants, or a 406 that lists what there is.

Parsed as users write it: `application/json;verbose`, `application/json; verbose; top_k=5`, several
media ranges with or without `q`, or nothing at all (RFC 9110, 12.5.1; `verbose` is a parameter
without a value, as the TensorFlow built-in has it).
"""

from __future__ import annotations

from dataclasses import dataclass

from image_classification.errors import RequestError

JSON = "application/json"
JSON_LINES = "application/jsonlines"
CSV = "text/csv"

PRODUCED = (JSON, JSON_LINES, CSV)
"""The media types of answers, the preferred one first."""


@dataclass(frozen=True)
class Accept:
    """What the caller wants.

    Attributes:
        media_type: one of `PRODUCED`.
        is_verbose: whether labels come with the probabilities.
        top_k: only this many classes, ≥ 1; None for all of them.
        threshold: only classes with at least this probability, 0 to 1; None for all of them.
    """

    media_type: str
    is_verbose: bool = False
    top_k: int | None = None
    threshold: float | None = None

    @property
    def is_selection(self) -> bool:
        """Whether classes may be left out, so that they come in falling order."""
        return self.top_k is not None or self.threshold is not None


@dataclass(frozen=True)
class _Range:
    """A media range of the header: `type`, its parameters in lower case, and its weight."""

    media_type: str
    parameters: tuple[str, ...]
    quality: float

    @staticmethod
    def parse(text: str) -> _Range:
        media_type, *parameters = [part.strip().lower() for part in text.split(";")]
        return _Range(media_type, tuple(parameters), _quality(parameters))

    def covers(self, media_type: str) -> bool:
        return self.media_type in ("*/*", media_type) or (
            self.media_type.endswith("/*") and media_type.startswith(self.media_type[:-1])
        )


def parse_accept(header: str | None, default: str) -> Accept:
    """The caller's most wanted range that can be produced.

    Ranges of equal weight count in the order they are written. A wildcard means `default` where it
    covers that, else the first of `PRODUCED` that it covers.

    Args:
        header: the Accept header; None and "" mean `default`.
        default: an accept such as `application/json;verbose`.

    Raises:
        RequestError: 406, nothing can be produced, or a parameter has an impossible value.
    """
    if not (header or "").strip(" ,"):
        header = default
    ranges = [_Range.parse(part) for part in (header or "").split(",") if part.strip()]
    refused = {entry.media_type for entry in ranges if entry.quality <= 0}
    for wanted in sorted(ranges, key=lambda entry: entry.quality, reverse=True):
        found = _produce(wanted, default, refused) if wanted.quality > 0 else None
        if found is not None:
            return found
    raise RequestError(
        406,
        f"Accept {header!r} cannot be produced; accepted: "
        + ", ".join(f"{media_type}, {media_type};verbose" for media_type in PRODUCED)
        + "; with ;top_k=N or ;threshold=P for some of the classes only",
    )


def _produce(wanted: _Range, default: str, refused: set[str]) -> Accept | None:
    if wanted.media_type in PRODUCED:
        return _with_parameters(wanted.media_type, wanted.parameters)
    preferred = _Range.parse(default)
    for media_type in (preferred.media_type, *PRODUCED):
        if wanted.covers(media_type) and media_type in PRODUCED and media_type not in refused:
            inherited = preferred.parameters if media_type == preferred.media_type else ()
            return _with_parameters(media_type, (*inherited, *wanted.parameters))
    return None


def _with_parameters(media_type: str, parameters: tuple[str, ...]) -> Accept:
    """Parameters that are not ours are ignored, as the built-ins ignore them."""
    values = dict(_name_and_value(parameter) for parameter in parameters)
    top_k = values.get("top_k")
    threshold = values.get("threshold")
    return Accept(
        media_type,
        is_verbose="verbose" in values or top_k is not None or threshold is not None,
        top_k=None if top_k is None else parse_top_k(top_k),
        threshold=None if threshold is None else parse_threshold(threshold),
    )


def parse_top_k(text: str) -> int:
    """An integer from 1 to 999,999,999; a RequestError 406 otherwise."""
    # Nine digits are more classes than any model has; int() itself fails at 4,301.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise RequestError(406, f"top_k={text[:20]!r}: expected an integer from 1 to 999999999")
    return int(text)


def parse_threshold(text: str) -> float:
    """A number from 0 to 1; a RequestError 406 otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RequestError(406, f"threshold={text[:20]!r}: expected a number from 0 to 1")
    return value


def _name_and_value(parameter: str) -> tuple[str, str]:
    name, _, value = parameter.partition("=")
    return name.strip(), value.strip().strip('"')


def _quality(parameters: list[str]) -> float:
    """The weight `q`, 0 to 1; 1 without one, 0 for what is no number (RFC 9110, 12.4.2)."""
    text = dict(map(_name_and_value, parameters)).get("q")
    if text is None:
        return 1.0
    try:
        return float(text)
    except ValueError:
        return 0.0
