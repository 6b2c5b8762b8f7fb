"""Predictions → the body of the answer, in the form of the interface's built-in.

    application/json        mxnet [p, …], tensorflow {"probabilities": [p, …]}
    application/jsonlines   mxnet {"prediction": [p, …]}, tensorflow {"probabilities": [p, …]}
    …;verbose               {"probabilities": […], "labels": […], "predicted_label": "…"}
    text/csv                p,…         text/csv;verbose   label,p,label,p,…

Several images are an array of these, or a line each; `{"error": "…"}` stands for an image that
cannot be used.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from image_classification.contract.interface import AnswerForm
from image_classification.errors import RequestError
from image_classification.serving.codec.accept import CSV, JSON, JSON_LINES, Accept
from image_classification.serving.prediction import Failure, Prediction

Result = Prediction | Failure


def encode(
    results: Sequence[Result], is_list: bool, accept: Accept, form: AnswerForm
) -> tuple[bytes, str]:
    """(body, content type) of the answer.

    Args:
        results: one for each image, in order.
        is_list: whether `application/json` is an array; otherwise there is one result.
        accept: what the caller wants.
        form: that of the interface.

    Raises:
        RequestError: 500, the model gave no finite probabilities for the one image; in a list this
            is an error in its place.
    """
    results = [_finite(result) for result in results]
    if not is_list and _NOT_FINITE in results:
        raise RequestError(500, _NOT_FINITE.reason)
    return _ENCODERS[accept.media_type](results, is_list, accept, form), accept.media_type


_NOT_FINITE = Failure("the model gave no finite probabilities for this image")


def _finite(result: Result) -> Result:
    """The result, or a Failure instead of numbers that JSON cannot hold."""
    is_number = isinstance(result, Failure) or np.isfinite(result.probabilities).all()
    return result if is_number else _NOT_FINITE


def verbose(prediction: Prediction, accept: Accept) -> dict[str, object]:
    """Labels and probabilities: all in label order, or the selected ones in falling order."""
    labels, probabilities = _selected(prediction, accept)
    answer: dict[str, object] = {
        "probabilities": probabilities,
        "labels": labels,
        "predicted_label": prediction.label,
    }
    if prediction.is_multi_label:
        threshold = 0.5 if accept.threshold is None else accept.threshold
        answer["predicted_labels"] = prediction.labels_from(threshold)
    return answer


def _selected(prediction: Prediction, accept: Accept) -> tuple[list[str], list[float]]:
    if not accept.is_selection:
        return list(prediction.labels.names), prediction.to_list()
    chosen = prediction.top(accept.top_k or len(prediction.labels), accept.threshold or 0.0)
    return [name for name, _ in chosen], [probability for _, probability in chosen]


def _encode_json(
    results: Sequence[Result], is_list: bool, accept: Accept, form: AnswerForm
) -> bytes:
    values = [_value(result, accept, form.json_key) for result in results]
    return (f"[{', '.join(values)}]" if is_list else values[0]).encode("utf-8")


def _encode_json_lines(
    results: Sequence[Result], _: bool, accept: Accept, form: AnswerForm
) -> bytes:
    lines = (f"{_value(result, accept, form.json_lines_key)}\n" for result in results)
    return "".join(lines).encode("utf-8")


def _value(result: Result, accept: Accept, name: str | None) -> str:
    """The JSON of one result; probabilities alone stand under `name`, or bare without one."""
    if isinstance(result, Failure):
        return _json({"error": result.reason})
    if accept.is_selection or (accept.is_verbose and result.is_multi_label):
        return _json(verbose(result, accept))
    numbers = f"[{', '.join(_numbers(result))}]"
    if accept.is_verbose:
        labels, label = _labels(result.labels.names), _json(result.label)
        return f'{{"probabilities": {numbers}, "labels": {labels}, "predicted_label": {label}}}'
    return numbers if name is None else f'{{"{name}": {numbers}}}'


def _encode_csv(results: Sequence[Result], _: bool, accept: Accept, __: AnswerForm) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for result in results:
        if isinstance(result, Failure):
            writer.writerow([f"error: {result.reason}"])
        elif accept.is_verbose:
            pairs = zip(*_selected(result, accept), strict=True)
            writer.writerow([cell for pair in pairs for cell in pair])
        else:
            text.write(",".join(_numbers(result)) + "\n")
    return text.getvalue().encode("utf-8")


def _numbers(prediction: Prediction) -> list[str]:
    """The probabilities as text, the same as `repr` of `Prediction.to_list`.

    All of one template, which for 1,000 classes costs a third of what `json` takes for the
    seventeen digits of a float64 (0.4 ms, a twelfth of a small network).
    """
    row = prediction.probabilities
    if ((row > 0) & (row < 1)).all():
        return (_template(len(row)) % tuple(row.tolist())).split(" ")
    return [repr(value) for value in prediction.to_list()]  # %g would write 1.0 as a whole number


@lru_cache(8)
def _template(count: int) -> str:
    return " ".join(["%.9g"] * count)


@lru_cache(8)
def _labels(names: tuple[str, ...]) -> str:
    return _json(names)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def dump(value: object) -> bytes:
    """A JSON value on one line, names as they are (UTF-8)."""
    return _json(value).encode("utf-8")


_Encoder = Callable[[Sequence[Result], bool, Accept, AnswerForm], bytes]

_ENCODERS: dict[str, _Encoder] = {
    JSON: _encode_json,
    JSON_LINES: _encode_json_lines,
    CSV: _encode_csv,
}
