"""Metrics of a served model: the outcomes of a source through the serving path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from image_classification.data.labels import LabelMap
from image_classification.data.samples import FloatArray
from image_classification.data.sources import Source
from image_classification.data.sources.folder import FolderSource
from image_classification.data.sources.records import RecordSource
from image_classification.errors import DataError, ImageError
from image_classification.training.evaluation import Outcomes
from image_classification.training.inputs import record_files


class _Prediction(Protocol):
    @property
    def probabilities(self) -> FloatArray: ...


class _Model(Protocol):
    """What is needed of `serving.models.Model`, which training must not import."""

    def predict(self, images: Sequence[bytes]) -> Sequence[_Prediction]: ...


def open_labelled(path: Path, labels: LabelMap) -> Source:
    """Class folders (whose names must be the model's), a record file or a folder of those.

    Raises:
        DataError: neither, or classes that the model does not have.
    """
    if path.is_file():
        source: Source = RecordSource([path])
    elif path.is_dir():
        files = record_files(path)
        source = RecordSource(files) if files else FolderSource(path, labels)
    else:
        raise DataError(f"{path}: expected class folders or a .rec file, found nothing")
    if len(source) and int(source.class_indices.max()) >= len(labels):
        raise DataError(
            f"{source.name}: class {int(source.class_indices.max())} occurs, but the model has "
            f"{len(labels)} classes"
        )
    return source


def predict_source(
    model: _Model, source: Source, on_progress: Callable[[], None]
) -> tuple[Outcomes, list[tuple[str, str]]]:
    """(outcomes of the usable samples, (key, reason) of the others); one image at a time."""
    keys: list[str] = []
    targets: list[int] = []
    rows: list[FloatArray] = []
    skipped: list[tuple[str, str]] = []
    for index in range(len(source)):
        try:
            sample = source.read(index)
            (prediction,) = model.predict([sample.data])
        except ImageError as error:
            skipped.append((source.key(index), str(error)))
        else:
            keys.append(sample.key)
            targets.append(sample.class_index)
            rows.append(prediction.probabilities)
        on_progress()
    if not rows:
        raise DataError(f"{source.name}: no usable image among {len(source)}")
    return Outcomes(tuple(keys), np.asarray(targets, np.int64), np.stack(rows)), skipped
