"""Predictions → the body of the answer, in the form that the interface's built-in gives.

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

from image_classification.serving.codec.accept import CSV, JSON, JSON_LINES, Accept
from image_classification.serving.prediction import Failure, Prediction

Result = Prediction | Failure


def encode(
    results: Sequence[Result], is_list: bool, accept: Accept, interface: str
) -> tuple[bytes, str]:
    """(body, content type) of the answer.

    Args:
        results: one for each image, in order.
        is_list: whether `application/json` is an array; otherwise there is one result.
        accept: what the caller wants.
        interface: mxnet or tensorflow.
    """
    return _ENCODERS[accept.media_type](results, is_list, accept, interface), accept.media_type


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
        return list(prediction.labels.names), prediction.probabilities.tolist()
    chosen = prediction.top(accept.top_k or len(prediction.labels), accept.threshold or 0.0)
    return [name for name, _ in chosen], [probability for _, probability in chosen]


def _encode_json(results: Sequence[Result], is_list: bool, accept: Accept, interface: str) -> bytes:
    def value(result: Result) -> object:
        if isinstance(result, Failure):
            return {"error": result.reason}
        if accept.is_verbose:
            return verbose(result, accept)
        probabilities = result.probabilities.tolist()
        return probabilities if interface == "mxnet" else {"probabilities": probabilities}

    values = [value(result) for result in results]
    return dump(values if is_list else values[0])


def _encode_json_lines(results: Sequence[Result], _: bool, accept: Accept, interface: str) -> bytes:
    name = "prediction" if interface == "mxnet" else "probabilities"

    def line(result: Result) -> dict[str, object]:
        if isinstance(result, Failure):
            return {"error": result.reason}
        return (
            verbose(result, accept) if accept.is_verbose else {name: result.probabilities.tolist()}
        )

    return b"".join(dump(line(result)) + b"\n" for result in results)


def _encode_csv(results: Sequence[Result], _: bool, accept: Accept, __: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for result in results:
        if isinstance(result, Failure):
            writer.writerow([f"error: {result.reason}"])
        elif accept.is_verbose:
            pairs = zip(*_selected(result, accept), strict=True)
            writer.writerow([cell for pair in pairs for cell in pair])
        else:
            writer.writerow(result.probabilities.tolist())
    return text.getvalue().encode("utf-8")


def dump(value: object) -> bytes:
    """A JSON value on one line, names as they are (UTF-8)."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8")


_Encoder = Callable[[Sequence[Result], bool, Accept, str], bytes]

_ENCODERS: dict[str, _Encoder] = {
    JSON: _encode_json,
    JSON_LINES: _encode_json_lines,
    CSV: _encode_csv,
}
