"""Predictions and the Accept header → the body of the answer, in the form of the built-in.

    application/json        mxnet [p, …], tensorflow {"probabilities": [p, …]}
    application/jsonlines   mxnet {"prediction": [p, …]}, tensorflow {"probabilities": [p, …]}
    …;verbose               {"probabilities": […], "labels": […], "predicted_label": "…"}
    text/csv                p,…         text/csv;verbose   label,p,label,p,…

Several images are an array of these, or one line each; `{"error": "…"}` stands for an image that
cannot be used. A form can leave out the first class, see `AnswerForm`. Accept is parsed as users
write it: `application/json;verbose`, `application/json; verbose; top_k=5`, several media ranges
with or without `q`, or nothing at all (RFC 9110, 12.5.1; `verbose` is a parameter without a value,
as in the TensorFlow built-in).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from image_classification.contract.interface import AnswerForm
from image_classification.errors import RequestError
from image_classification.labels.label_map import LabelMap
from image_classification.samples import THRESHOLD, FloatArray

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
_PARAMETERS = ("verbose", "top_k", "threshold")
_NUMBER = re.compile(r"\+?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class Prediction:
    """The model's answer to one image.

    Attributes:
        probabilities: float32 (classes,), adding to 1 unless `is_multi_label`.
        labels: the label map; a position is a class index.
        is_multi_label: whether an image may have several classes, or none.
    """

    probabilities: FloatArray
    labels: LabelMap
    is_multi_label: bool = False

    @property
    def class_index(self) -> int:
        """The most probable class; on a tie, the lowest index."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """The name of the most probable class."""
        return self.labels.names[self.class_index]

    def labels_from(self, threshold: float) -> list[str]:
        """Return the names of the classes with this probability or more, in label order."""
        return [self.labels.names[i] for i in np.flatnonzero(self.probabilities >= threshold)]

    def to_list(self) -> list[float]:
        """Return the probabilities in label order, as they are written: see `short`."""
        return [short(value) for value in self.probabilities.tolist()]

    def top(self, count: int, threshold: float = 0.0) -> list[tuple[str, float]]:
        """Return (name, probability) of the `count` most probable classes, in descending order.

        Classes below `threshold` are left out; probabilities are as in `to_list`.
        """
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [
            (self.labels.names[i], short(float(self.probabilities[i])))
            for i in order
            if self.probabilities[i] >= threshold
        ]


def short(value: float) -> float:
    """Round a float32 to nine significant digits, so that `repr` and `json` write no more.

    Nine digits tell any two float32 apart; as a float64 the value itself has seventeen.
    """
    return float(f"{value:.9g}")


@dataclass(frozen=True)
class Failure:
    """Takes the place of a prediction: the reason why the image cannot be used."""

    reason: str


Result = Prediction | Failure


@dataclass(frozen=True)
class Accept:
    """What the client wants.

    Attributes:
        media_type: one of `PRODUCED`.
        is_verbose: whether the answer has labels next to the probabilities.
        top_k: only this many classes, ≥ 1; None for all of them.
        threshold: only classes with at least this probability, 0 to 1; None for all of them.
        asked: the client's name of the media type, if that is another one.
    """

    media_type: str
    is_verbose: bool = False
    top_k: int | None = None
    threshold: float | None = None
    asked: str = ""

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
        + "; with ;top_k=N or ;threshold=P for some of the classes only",
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
    is_selection = top_k is not None or threshold is not None
    is_verbose = is_selection if word is None else _SWITCH[word]
    if is_selection and not is_verbose:
        raise RequestError(
            406, f"verbose={word} with top_k or threshold: a selection of classes needs their names"
        )
    return Accept(
        media_type,
        is_verbose,
        top_k=None if top_k is None else parse_top_k(top_k),
        threshold=None if threshold is None else parse_threshold(threshold),
        asked="" if asked == media_type else asked,
    )


def parse_top_k(text: str) -> int:
    """Read an integer from 1 to 999,999,999; anything else is a RequestError 406."""
    # Nine digits are more classes than any model has; int() itself fails at 4,301.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise RequestError(406, f"top_k={text[:20]!r}: expected an integer from 1 to 999999999")
    return int(text)


def parse_threshold(text: str) -> float:
    """Read a number from 0 to 1; anything else is a RequestError 406."""
    value = float(text) if _NUMBER.fullmatch(text) else -1.0
    if not 0 <= value <= 1:
        raise RequestError(406, f"threshold={text[:20]!r}: expected a number from 0 to 1")
    return value


def encode(
    results: Sequence[Result], is_list: bool, accept: Accept, form: AnswerForm
) -> tuple[bytes, str]:
    """Return (body, content type) of the answer; see `encode_parts`."""
    return encode_parts([results], is_list, accept, form)


def encode_parts(
    parts: Iterable[Sequence[Result]],
    is_list: bool,
    accept: Accept,
    form: AnswerForm,
    hold: Callable[[int], None] = lambda _: None,
) -> tuple[bytes, str]:
    """Return (body, content type) of the answer.

    Args:
        parts: some results at a time, one for each image, in order.
        is_list: whether `application/json` is an array; otherwise there is one result.
        accept: what the client wants.
        form: that of the interface.
        hold: called with the number of bytes of each part of the answer.

    Raises:
        RequestError: 500, the model gave no finite probabilities for the one image; in a list, this
            is an error in its position.
    """
    encoded = []
    for part in parts:
        results = [_finite(result) for result in part]
        if not is_list and _NOT_FINITE in results:
            raise RequestError(500, _NOT_FINITE.reason)
        encoded.append(_ENCODERS[accept.media_type](results, accept, form))
        hold(len(encoded[-1]))
    is_json = accept.media_type == JSON
    if is_json and is_list:  # at the ends of parts: the whole can have 150 MB
        encoded[0] = b"[" + encoded[0]
        encoded[-1] += b"]"
    return (b", " if is_json else b"").join(encoded), accept.asked or accept.media_type


_NOT_FINITE = Failure("the model gave no finite probabilities for this image")


def _finite(result: Result) -> Result:
    """Return the result, or a Failure instead of numbers that JSON cannot hold."""
    is_number = isinstance(result, Failure) or np.isfinite(result.probabilities).all()
    return result if is_number else _NOT_FINITE


def verbose(prediction: Prediction, accept: Accept) -> dict[str, object]:
    """Return labels and probabilities: all in label order, or a selection in descending order."""
    labels, probabilities = _selected(prediction, accept)
    answer: dict[str, object] = {"probabilities": probabilities, "labels": labels}
    answer["predicted_label"] = prediction.label
    if prediction.is_multi_label:
        threshold = THRESHOLD if accept.threshold is None else accept.threshold
        answer["predicted_labels"] = prediction.labels_from(threshold)
    return answer


def _selected(prediction: Prediction, accept: Accept) -> tuple[list[str], list[float]]:
    if not accept.is_selection:
        return list(prediction.labels.names), prediction.to_list()
    chosen = prediction.top(accept.top_k or len(prediction.labels), accept.threshold or 0.0)
    return [name for name, _ in chosen], [probability for _, probability in chosen]


def _encode_json(results: Sequence[Result], accept: Accept, form: AnswerForm) -> bytes:
    texts = (_value(result, accept, form, form.json_key) for result in results)
    return ", ".join(texts).encode("utf-8")


def _encode_json_lines(results: Sequence[Result], accept: Accept, form: AnswerForm) -> bytes:
    lines = (f"{_value(result, accept, form, form.json_lines_key)}\n" for result in results)
    return "".join(lines).encode("utf-8")


def _value(result: Result, accept: Accept, form: AnswerForm, name: str | None) -> str:
    """Return the JSON of one result; `name` is the key of bare probabilities, if they have one."""
    if isinstance(result, Failure):
        return _json({"error": result.reason})
    if accept.is_selection or (accept.is_verbose and result.is_multi_label):
        return _json(verbose(result, accept))
    numbers = f"[{', '.join(_numbers(result, form))}]"
    if accept.is_verbose:
        labels, label = _labels(result.labels.names), _json(result.label)
        return f'{{"probabilities": {numbers}, "labels": {labels}, "predicted_label": {label}}}'
    return numbers if name is None else f'{{"{name}": {numbers}}}'


def _encode_csv(results: Sequence[Result], accept: Accept, form: AnswerForm) -> bytes:
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    for result in results:
        if isinstance(result, Failure):
            writer.writerow([f"error: {result.reason}"])
        elif accept.is_verbose:
            pairs = zip(*_selected(result, accept), strict=True)
            writer.writerow([cell for pair in pairs for cell in pair])
        else:
            text.write(",".join(_numbers(result, form)) + "\n")
    return text.getvalue().encode("utf-8")


def _numbers(prediction: Prediction, form: AnswerForm) -> list[str]:
    """Return the form's probabilities as text, equal to `repr` of each in `Prediction.to_list`.

    One template for all of them costs, for 1,000 classes, a third of what `json` takes for the
    seventeen digits of a float64 (0.4 ms, a twelfth of a small network).
    """
    row = prediction.probabilities[form.first :]
    if len(row) and row.min() > 0 and row.max() < 1:
        return (_template(len(row)) % tuple(row.tolist())).split(" ")
    return [repr(value) for value in prediction.to_list()[form.first :]]  # %g writes 1.0 as 1


@lru_cache(8)
def _template(count: int) -> str:
    return " ".join(["%.9g"] * count)


@lru_cache(8)
def _labels(names: tuple[str, ...]) -> str:
    return _json(names)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def dump(value: object) -> bytes:
    """Return a JSON value on one line, with names in UTF-8."""
    return _json(value).encode("utf-8")


_Encoder = Callable[[Sequence[Result], Accept, AnswerForm], bytes]

_ENCODERS: dict[str, _Encoder] = {
    JSON: _encode_json,
    JSON_LINES: _encode_json_lines,
    CSV: _encode_csv,
}
