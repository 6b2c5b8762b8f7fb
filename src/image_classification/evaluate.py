"""Metrics of a served model: the outcomes of a source through the serving path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from image_classification.errors import DataError, ImageError
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.loading.records import RecordSource
from image_classification.loading.sources import FolderSource, Source
from image_classification.samples import FloatArray
from image_classification.training.evaluation import Outcomes
from image_classification.training.sources import record_files
from image_classification.work import in_order


class _Prediction(Protocol):
    @property
    def probabilities(self) -> FloatArray: ...


class _Model(Protocol):
    """What is needed of `serving.models.Model`, which training must not import."""

    def predict(self, images: Sequence[bytes]) -> Sequence[_Prediction]: ...


def open_labeled(path: Path, labels: LabelMap, is_multi_label: bool = False) -> Source:
    """Class folders (whose names must be the model's), a record file or a folder of those.

    Raises:
        DataError: neither, or classes that the model does not have.
    """
    files = [path] if path.is_file() else record_files(path)
    if files:
        source: Source = RecordSource(files, is_multi_label=is_multi_label)
        _check_labels(path if path.is_dir() else path.parent, labels)
    elif path.is_dir() and is_multi_label:
        raise DataError(f"{path}: the model has several labels an image; give it .rec files")
    elif path.is_dir():
        source = FolderSource(path, labels)
    else:
        raise DataError(f"{path}: expected class folders or a .rec file, found nothing")
    if source.multi_hot is not None:
        if source.multi_hot.shape[1] != len(labels):
            raise DataError(
                f"{source.name}: an image has {source.multi_hot.shape[1]} labels, but the model "
                f"has {len(labels)} classes"
            )
        return source
    if len(source) and int(source.class_indices.max()) >= len(labels):
        raise DataError(
            f"{source.name}: class {int(source.class_indices.max())} occurs, but the model has "
            f"{len(labels)} classes"
        )
    return source


def _check_labels(directory: Path, labels: LabelMap) -> None:
    """Refuse records whose own labels.json gives the class numbers other names than `labels`."""
    path = directory / LABELS_FILE
    if path.is_file() and (own := LabelMap.read(path)) != labels:
        raise DataError(
            f"{path}: the class numbers of these records mean {list(own.names)[:20]}, those of the "
            f"model {list(labels.names)[:20]}; pack them with one label map"
        )


def predict_source(
    model: _Model, source: Source, threads: int, on_progress: Callable[[], None]
) -> tuple[Outcomes, list[tuple[str, str]]]:
    """(outcomes of the usable samples, (key, reason) of the others), in the source's order.

    One image at a time on each of `threads` threads, as the server does it.
    """

    def predict(index: int) -> FloatArray | ImageError:
        try:
            (prediction,) = model.predict([source.read(index).data])
        except ImageError as error:
            return error
        return prediction.probabilities

    usable: list[int] = []
    rows: list[FloatArray] = []
    skipped: list[tuple[str, str]] = []
    for index, result in enumerate(in_order(predict, range(len(source)), threads)):
        if isinstance(result, ImageError):
            skipped.append((source.key(index), str(result)))
        else:
            usable.append(index)
            rows.append(result)
        on_progress()
    if not rows:
        raise DataError(f"{source.name}: no usable image among {len(source)}")
    keys = tuple(source.key(index) for index in usable)
    targets = source.class_indices if source.multi_hot is None else source.multi_hot
    return Outcomes(keys, targets[usable], np.stack(rows)), skipped
