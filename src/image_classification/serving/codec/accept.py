"""The Accept header: which form of answer a client wants, and what the answer contains.

It is parsed as users write it: `application/json;verbose`, `application/json; verbose; top_k=5`,
several media ranges with or without `q`, or nothing at all (RFC 9110, 12.5.1; `verbose` is a
parameter without a value, as in the TensorFlow built-in).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from image_classification.errors import RequestError
from image_classification.serving.graph_outputs import FEATURES, MAP

JSON = "application/json"
JSON_LINES = "application/jsonlines"
CSV = "text/csv"

PRODUCED = (JSON, JSON_LINES, CSV)
"""The media types of answers, the preferred one first."""

JSON_LINES_NAMES = (
    *("application/x-jsonlines", "application/x-ndjson", "application/ndjson"),
    *("application/jsonl", "application/x-jsonl"),
)
"""Other names of JSON lines, in requests and in Accept."""

_SWITCH = {"": True, "true": True, "1": True, "false": False, "0": False}
DETAILS = {"explain": MAP, "features": FEATURES, "score": FEATURES}
"""Parameter that asks for more about each image → the output of the graph that it needs."""

_PARAMETERS = ("verbose", "top_k", "threshold", *DETAILS)
_NUMBER = re.compile(r"\+?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class Accept:
    """What the client wants.

    Attributes:
        media_type: one of `PRODUCED`.
        is_verbose: whether the answer has labels next to the probabilities.
        top_k: only this many classes, ≥ 1; None for all of them.
        threshold: only classes with at least this probability, 0 to 1; None for all of them.
        asked: the client's name of the media type, if that is another one.
        details: what else the answer contains about each image: names of `DETAILS`.
        unknown_below: a lower score makes the predicted label "unknown"; None: never.
    """

    media_type: str
    is_verbose: bool = False
    top_k: int | None = None
    threshold: float | None = None
    asked: str = ""
    details: frozenset[str] = frozenset()
    unknown_below: float | None = None

    @property
    def computed(self) -> frozenset[str]:
        """What else to compute of each image: the details, and the score that decides."""
        return self.details if self.unknown_below is None else self.details | {"score"}

    @property
    def is_selection(self) -> bool:
        """Whether classes may be left out; the others are then in descending order."""
        return self.top_k is not None or self.threshold is not None


@dataclass(frozen=True)
class _Range:
    """A media range of the header: `type`, its parameters in lower case, and its weight.

    `asked` is the type as the client names it.
    """

    media_type: str
    parameters: dict[str, str]
    quality: float
    asked: str

    @staticmethod
    def parse(text: str) -> _Range:
        asked, *parameters = [piece.strip().lower() for piece in text.split(";")]
        media_type = JSON_LINES if asked in JSON_LINES_NAMES else asked
        values: dict[str, str] = {}
        for parameter in filter(None, parameters):
            name, _, value = (piece.strip() for piece in parameter.partition("="))
            value = value.strip('"')
            if values.setdefault(name, value) != value:
                raise RequestError(406, f"Accept {text.strip()[:80]!r} has two values of {name}")
            if name not in _PARAMETERS and name.replace("-", "_") in (*_PARAMETERS, "topk"):
                raise RequestError(
                    406, f"Accept parameter {name!r}: expected {' or '.join(_PARAMETERS)}"
                )
        weight = values.get("q", "1")  # RFC 9110, 12.4.2: a malformed one is never wanted
        quality = min(float(weight), 1.0) if _NUMBER.fullmatch(weight) else 0.0
        return _Range(media_type, values, quality, asked)

    def covers(self, media_type: str) -> bool:
        return self.media_type in ("*/*", media_type) or (
            self.media_type.endswith("/*") and media_type.startswith(self.media_type[:-1])
        )


def parse_accept(
    header: str | None,
    default: str,
    top_k: int | None = None,
    threshold: float | None = None,
) -> Accept:
    """Return the client's most wanted range that can be produced.

    Of ranges with equal weight, the first one wins. A wildcard means `default` if it covers that,
    else the first of `PRODUCED` that it covers.

    Args:
        header: the Accept header; None and "" mean `default`.
        default: an accept such as `application/json;verbose`.
        top_k, threshold: of a verbose answer if the header has neither.

    Raises:
        RequestError: 406, no range can be produced, or a parameter has an impossible value.
    """
    if not (header or "").strip(" ,"):
        header = default
    ranges = [_Range.parse(part) for part in (header or "").split(",") if part.strip()]
    refused = {entry.media_type for entry in ranges if entry.quality <= 0}
    for wanted in sorted(ranges, key=lambda entry: entry.quality, reverse=True):
        found = _produce(wanted, default, refused) if wanted.quality > 0 else None
        if found is not None and found.is_verbose and not found.is_selection:
            found = replace(found, top_k=top_k, threshold=threshold)
        if found is not None:
            return found
    raise RequestError(
        406,
        f"Accept {header!r} cannot be produced; accepted: "
        + ", ".join(f"{media_type}, {media_type};verbose" for media_type in PRODUCED)
        + "; with ;top_k=N or ;threshold=P for some of the classes only; with ;explain, ;features "
        "or ;score in JSON",
    )


def _produce(wanted: _Range, default: str, refused: set[str]) -> Accept | None:
    if wanted.media_type in PRODUCED:
        return _with_parameters(wanted.media_type, wanted.parameters, wanted.asked)
    preferred = _Range.parse(default)
    for media_type in (preferred.media_type, *PRODUCED):
        if wanted.covers(media_type) and media_type in PRODUCED and media_type not in refused:
            inherited = preferred.parameters if media_type == preferred.media_type else {}
            asked = preferred.asked if media_type == preferred.media_type else media_type
            return _with_parameters(media_type, inherited | wanted.parameters, asked)
    return None


def _with_parameters(media_type: str, values: dict[str, str], asked: str) -> Accept:
    """Ignore unknown parameters, as the built-ins do."""
    top_k, threshold, word = (values.get(name) for name in ("top_k", "threshold", "verbose"))
    if word is not None and word not in _SWITCH:
        raise RequestError(406, f"verbose={word[:20]!r}: expected true or false, or no value")
    details = _details(media_type, values)
    is_more = top_k is not None or threshold is not None or bool(details)
    is_verbose = is_more if word is None else _SWITCH[word]
    if is_more and not is_verbose:
        raise RequestError(
            406,
            f"verbose={word} with {' or '.join(_PARAMETERS[1:])}: these need a verbose "
            "answer; leave one of them out",
        )
    return Accept(
        media_type,
        is_verbose,
        top_k=None if top_k is None else parse_top_k(top_k),
        threshold=None if threshold is None else parse_share("threshold", threshold),
        asked="" if asked == media_type else asked,
        details=details,
    )


def _details(media_type: str, values: dict[str, str]) -> frozenset[str]:
    """Return what else the parameters ask for."""
    for name in DETAILS:
        if values.get(name, "") not in _SWITCH:
            raise RequestError(
                406, f"{name}={values[name][:20]!r}: expected true or false, or no value"
            )
    wanted = {name for name in DETAILS if name in values and _SWITCH[values[name]]}
    if wanted and media_type == CSV:
        names = " and ".join(sorted(wanted))
        raise RequestError(406, f"Accept parameter {names}: {CSV} has no place for it: use {JSON}")
    return frozenset(wanted)


def parse_top_k(text: str) -> int:
    """Read an integer from 1 to 999,999,999; anything else is a RequestError 406."""
    # Nine digits are more classes than any model has; int() itself fails at 4,301.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise RequestError(406, f"top_k={text[:20]!r}: expected an integer from 1 to 999999999")
    return int(text)


def parse_share(name: str, text: str) -> float:
    """Read a number from 0 to 1; anything else is a RequestError 406 that has the name."""
    value = float(text) if _NUMBER.fullmatch(text) else -1.0
    if not 0 <= value <= 1:
        raise RequestError(406, f"{name}={text[:20]!r}: expected a number from 0 to 1")
    return value
