"""Predictions and what the client accepts → the body of the answer, in the form of the built-in.

    application/json        mxnet [p, …], tensorflow {"probabilities": [p, …]}
    application/jsonlines   mxnet {"prediction": [p, …]}, tensorflow {"probabilities": [p, …]}
    …;verbose               {"probabilities": […], "labels": […], "predicted_label": "…"}
    text/csv                p,…         text/csv;verbose   label,p,label,p,…
    …;explain               and "map": PNG in base64, "box": [left, top, right, bottom]
    …;features              and "features": [f, …]
    …;score                 and "score": s, "is_known": true or false

Several images are an array of these, or one line each; `{"error": "…"}` stands for an image that
cannot be used. A form can leave out the first class, see `AnswerForm`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from image_classification.contract.interface import AnswerForm
from image_classification.errors import RequestError
from image_classification.feature_index import THRESHOLD as KNOWN
from image_classification.labels.label_map import LabelMap
from image_classification.samples import THRESHOLD, FloatArray
from image_classification.serving.codec.accept import CSV, JSON, JSON_LINES, Accept
from image_classification.serving.explanation import Explanation

UNKNOWN = "unknown"
"""The predicted label of an image that is not like those of training, if that is asked for."""


@dataclass(frozen=True)
class Prediction:
    """The model's answer to one image.

    Attributes:
        probabilities: float32 (classes,), adding to 1 unless `is_multi_label`.
        labels: the label map; a position is a class index.
        is_multi_label: whether an image may have several classes, or none.
        features: float32 (width,), what the network's head reads; None if not asked for.
        score: how much the image is like those of training, 0 to 1; None if not asked for.
        explanation: where the model sees the most probable class; None if not asked for.
    """

    probabilities: FloatArray
    labels: LabelMap
    is_multi_label: bool = False
    features: FloatArray | None = None
    score: float | None = None
    explanation: Explanation | None = None

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
    if isinstance(result, Failure):
        return result
    features = result.probabilities if result.features is None else result.features
    is_number = np.isfinite(result.probabilities).all() and np.isfinite(features).all()
    return result if is_number else _NOT_FINITE


def verbose(prediction: Prediction, accept: Accept) -> dict[str, object]:
    """Return labels and probabilities: all in label order, or a selection in descending order."""
    labels, probabilities = _selected(prediction, accept)
    answer: dict[str, object] = {"probabilities": probabilities, "labels": labels}
    answer["predicted_label"] = prediction.label
    if prediction.is_multi_label:
        threshold = THRESHOLD if accept.threshold is None else accept.threshold
        answer["predicted_labels"] = prediction.labels_from(threshold)
    if accept.unknown_below is not None and (prediction.score or 0) < accept.unknown_below:
        answer["predicted_label"] = UNKNOWN
        if prediction.is_multi_label:
            answer["predicted_labels"] = []
    if prediction.score is not None and "score" in accept.details:
        answer["score"] = round(prediction.score, 4)
        answer["is_known"] = prediction.score >= KNOWN
    if prediction.features is not None:
        answer["features"] = [short(value) for value in prediction.features.tolist()]
    if prediction.explanation is not None:
        answer["map"] = base64.b64encode(prediction.explanation.picture).decode("ascii")
        box = prediction.explanation.box
        answer["box"] = None if box is None else [round(share, 4) for share in box]
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
    is_more = accept.is_selection or bool(accept.computed)
    if is_more or (accept.is_verbose and result.is_multi_label):
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
