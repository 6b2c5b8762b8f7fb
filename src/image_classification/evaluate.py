"""Evaluate an artifact: open labeled images, and predict each one through the serving path."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from image_classification.errors import (
    DataError,
    ImageError,
    LabelError,
    SeveralLabelsError,
)
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.splits import split_folders
from image_classification.labels.label_map import LABELS_FILE, LabelMap, advice_on
from image_classification.loading.classes import warn_of_absent_classes
from image_classification.loading.foreign_files import describe_file, describe_missing
from image_classification.loading.packed import find_packed, open_packed
from image_classification.loading.records import RecordSource, record_files
from image_classification.loading.sources import FolderSource, ListedSource, Source
from image_classification.records.packed import is_packed
from image_classification.samples import FloatArray
from image_classification.training.evaluation import Outcomes, Rows
from image_classification.work import in_order

_logger = logging.getLogger(__name__)


class _Prediction(Protocol):
    @property
    def probabilities(self) -> FloatArray: ...


class _Model(Protocol):
    """The part of `serving.models.Model` that is used here; this module must not import serving."""

    def predict(self, images: Sequence[bytes]) -> Sequence[_Prediction]: ...


def open_labeled(path: Path, labels: LabelMap, is_multi_label: bool = False) -> Source:
    """Open class folders (named like the model's classes), a record file, or a folder of those.

    Of a folder that holds the folders of splits, the test split is opened, else validation.

    Raises:
        DataError: `path` is neither, or has classes that the model lacks.
    """
    is_packed_file = path.is_file() and is_packed(path)
    if path.is_file() and path.suffix.lower() != ".rec" and not is_packed_file:
        raise DataError(
            f"{path}: expected class folders or a .rec file, found {describe_file(path)}"
        )
    path = _split_of(path) if path.is_dir() else path
    files = [path] if path.is_file() else record_files(path)
    if is_packed_file or (not files and path.is_dir() and find_packed(path)):
        packed = files if is_packed_file else find_packed(path)
        with _one_class():
            source: Source = open_packed(packed, labels, len(labels), is_multi_label)
    elif files:
        with _one_class():
            source = RecordSource(files, is_multi_label=is_multi_label)
        _check_labels(path if path.is_dir() else path.parent, labels)
    elif path.is_dir() and is_multi_label:
        source = _listed(path, labels)
    elif path.is_dir():
        folder = FolderSource(path, labels, may_lack_classes=True)
        folder.refuse_lost_classes()
        source = folder
    else:
        raise DataError(
            f"{path}: expected class folders or a .rec file, found {describe_missing(path)}"
        )
    if source.multi_hot is not None:
        if source.multi_hot.shape[1] != len(labels):
            raise DataError(
                f"{source.name}: an image has {source.multi_hot.shape[1]} labels, but the model "
                f"has {len(labels)} classes"
            )
        return source
    if len(source) and int(source.class_indices.max()) >= len(labels):
        raise DataError(
            f"{source.name}: found class {int(source.class_indices.max())}, but the model has "
            f"{len(labels)} classes{advice_on(source.class_indices.tolist())}; number the classes "
            "as its labels.json does"
        )
    warn_of_absent_classes(source.name, source, labels)
    return source


@contextmanager
def _one_class() -> Iterator[None]:
    """Add to an error about images of several classes what the model can do."""
    try:
        yield
    except SeveralLabelsError as error:
        raise LabelError(
            f"{error}; the model predicts one class per image: evaluate it on images of one class, "
            "or train it with multi_label=1"
        ) from error


def _split_of(root: Path) -> Path:
    """Return the folder of the test split in `root`, else of another split, or `root` itself."""
    splits = split_folders(root)
    if not splits:
        return root
    chosen = next(splits[split] for split in ("test", "validation", "train") if split in splits)
    _logger.info(
        "%s holds the folders of splits %s: evaluating on %s",
        *(root, ", ".join(folder.name for folder in splits.values()), chosen),
    )
    return chosen


def _listed(path: Path, labels: LabelMap) -> Source:
    """Open a folder whose list gives images several classes."""
    inventory = take_inventory(path, labels=labels)
    multi_hot = inventory.multi_hot
    if multi_hot is None:
        raise DataError(
            f"{path}: the model predicts multiple labels per image; evaluate it on .rec files, or "
            "on a folder with a list of all classes of each image"
        )
    paths = [entry.path for entry in inventory.entries]
    return ListedSource(inventory.name, path, paths, inventory.class_indices, multi_hot)


def _check_labels(directory: Path, labels: LabelMap) -> None:
    """Refuse records with a labels.json that differs from `labels`."""
    path = directory / LABELS_FILE
    if path.is_file() and (own := LabelMap.read(path)) != labels:
        raise DataError(
            f"{path}: the classes of these records are {list(own.names)[:20]}, but the model's "
            f"are {list(labels.names)[:20]}; pack them with the model's label map"
        )


def predict_source(
    model: _Model, source: Source, threads: int, on_progress: Callable[[], None]
) -> tuple[Outcomes, list[tuple[str, str]]]:
    """Return the outcomes of the usable samples, and (key, reason) of the others, in order.

    Each of the threads predicts one image at a time, as in the server. `on_progress` is called
    after each image.
    """

    def predict(index: int) -> FloatArray | ImageError:
        try:
            (prediction,) = model.predict([source.read(index).data])
        except ImageError as error:
            return error
        return prediction.probabilities

    usable: list[int] = []
    rows = Rows()
    skipped: list[tuple[str, str]] = []
    for index, result in enumerate(in_order(predict, range(len(source)), threads)):
        if isinstance(result, ImageError):
            skipped.append((source.key(index), str(result)))
        else:
            usable.append(index)
            rows.append(result[None])
        on_progress()
    if not usable:
        raise DataError(f"{source.name}: expected a usable image, found none among {len(source)}")
    keys = tuple(source.key(index) for index in usable)
    targets = source.class_indices if source.multi_hot is None else source.multi_hot
    return Outcomes(keys, targets[usable], rows.array()), skipped
