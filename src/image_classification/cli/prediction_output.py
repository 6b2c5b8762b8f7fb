"""How `predict` writes what it found: JSON lines or CSV, one line an image."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from image_classification.data.labels import LabelMap
from image_classification.serving.codec.accept import JSON, Accept
from image_classification.serving.codec.answers import verbose
from image_classification.serving.prediction import Failure, Prediction


class Form(Protocol):
    """What a result looks like."""

    def head(self) -> list[str]:
        """The lines before the first image."""
        ...

    def line(self, path: Path, result: Prediction | Failure) -> str:
        """One image's line, without its end."""
        ...


class JsonLines:
    """`{"image": …, "probabilities": […], "labels": […], "predicted_label": …}`, or an `error`.

    Args:
        labels: the model's.
        top_k, threshold: which classes, in falling order; None for all of them.
    """

    def __init__(self, labels: LabelMap, top_k: int | None, threshold: float | None) -> None:
        self._accept = Accept(JSON, True, top_k or len(labels), threshold)

    def head(self) -> list[str]:
        """Nothing comes before the first image."""
        return []

    def line(self, path: Path, result: Prediction | Failure) -> str:
        """One image, its classes or its error."""
        if isinstance(result, Failure):
            said: dict[str, object] = {"error": result.reason}
        else:
            said = verbose(result, self._accept)
        return json.dumps({"image": str(path), **said}, ensure_ascii=False)


class CsvRows:
    """A table: image, predicted_label (several joined by `|`), error, and then the classes.

    All of them: a column of probabilities for each. Selected ones: pairs of label and probability
    in falling order.

    Args:
        labels: the model's.
        top_k, threshold: which classes; None for all of them.
    """

    def __init__(self, labels: LabelMap, top_k: int | None, threshold: float | None) -> None:
        self._labels = labels
        self._is_selection = top_k is not None or threshold is not None
        self._pairs = min(top_k or len(labels), len(labels)) if self._is_selection else 0
        self._threshold = threshold

    def head(self) -> list[str]:
        """The names of the columns."""
        columns = list(self._labels.names)
        if self._is_selection:
            places = range(1, self._pairs + 1)
            columns = [f"{name}_{place}" for place in places for name in ("label", "probability")]
        return [_row(["image", "predicted_label", "error", *columns])]

    def line(self, path: Path, result: Prediction | Failure) -> str:
        """One image, its classes or its error."""
        if isinstance(result, Failure):
            cells: list[object] = [""] * (2 * self._pairs or len(self._labels))
            return _row([str(path), "", result.reason, *cells])
        name = result.label
        if result.is_multi_label:
            chosen = 0.5 if self._threshold is None else self._threshold
            name = "|".join(result.labels_from(chosen))
        return _row([str(path), name, "", *self._probabilities(result)])

    def _probabilities(self, prediction: Prediction) -> list[object]:
        if not self._is_selection:
            return list(prediction.to_list())
        top = prediction.top(self._pairs, self._threshold or 0.0)
        cells: list[object] = [cell for pair in top for cell in pair]
        return cells + [""] * (2 * self._pairs - len(cells))


FORMS: dict[str, type[JsonLines] | type[CsvRows]] = {"jsonl": JsonLines, "csv": CsvRows}


def _row(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
