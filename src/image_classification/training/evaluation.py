"""Metrics in numpy, the same for every backend: each sample counts once.

The predictions for a split are `Outcomes`; `collect` makes them and `metrics_of` measures them. For
classes that exclude one another there are accuracy, top-k accuracy and cross entropy, for multiple
labels per sample label accuracy and binary cross entropy, for two classes also the binary metrics.
"""

import logging
import mmap
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from image_classification.errors import DataError
from image_classification.samples import THRESHOLD, Array, Batch, FloatArray, IntArray, UInt8Array

_logger = logging.getLogger(__name__)

POSITIVE_CLASS = 1
"""The second class of the label map."""

MOST_BYTES = 256 << 20
"""Bytes of the rows that stay in memory."""
_PIECE_VALUES = 1 << 21


class Rows:
    """Collects rows of an array: in memory while they are few, then in a temporary file.

    The probabilities of 40,000 images and 20,000 classes have 3.2 GB. The file has no name, so it
    is gone when the last array of it is.
    """

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self._bytes = 0
        self._file: Any = None  # without a buffer: a full disk shows at once
        self._written = 0  # rows in it
        self._has_room = True

    def append(self, rows: Array) -> None:
        """Add rows; all have one length and one dtype."""
        self._parts.append(rows)
        self._bytes += rows.nbytes
        if self._file is None and (self._bytes <= MOST_BYTES or not self._has_room):
            return
        parts, self._parts = self._parts, []
        for position, part in enumerate(parts):
            try:
                self._write(part)
            except OSError as error:
                self._return_to_memory(parts[position:], error)
                return

    def array(self) -> Array:
        """Return all rows, at least one: in memory, or read-only from the file. Call it once."""
        if self._file is None:
            return np.concatenate(self._parts)
        with self._file as file:  # the array keeps what it maps
            return np.memmap(file, self._dtype, "r", shape=(self._written, *self._shape))

    def _write(self, rows: Array) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)
            self._shape, self._dtype = rows.shape[1:], rows.dtype
        content = np.ascontiguousarray(rows).data.cast("B")
        while content:
            content = content[self._file.write(content) :]
        self._written += len(rows)

    def _return_to_memory(self, rest: list[Array], error: OSError) -> None:
        """Keep everything in memory, which may or may not suffice, where the disk does not."""
        _logger.warning(
            "%s has no room for the predictions (%s): they stay in memory, %.1f GB so far",
            tempfile.gettempdir(),
            error.strerror,
            self._bytes / 1e9,
        )
        self._has_room = False
        written = []
        if self._file is not None:
            with self._file as file:
                file.seek(0)
                count = self._written * int(np.prod(self._shape))
                content = np.fromfile(file, self._dtype, count)
                written = [content.reshape(self._written, *self._shape)]
        self._file, self._parts = None, [*written, *rest]


def pieces(rows: Array, *, only_mapped: bool = False) -> Iterator[tuple[slice, Array]]:
    """Yield (which rows, these rows) of an array, about 2 million values at a time.

    Args:
        rows: (N, …).
        only_mapped: give an array in memory in one piece: sums of floats depend on the pieces.
    """
    mapped: Any = getattr(rows, "_mmap", None)
    size = max(1, _PIECE_VALUES // max(1, int(np.prod(rows.shape[1:]))))
    if only_mapped and mapped is None:
        size = max(1, len(rows))
    for start in range(0, len(rows), size):
        which = slice(start, min(start + size, len(rows)))
        yield which, np.asarray(rows[which])
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # else all that was read counts as our memory


def precision(targets: IntArray, scores: FloatArray) -> float:
    """Return the share (0–1) of the predicted positives that are positive; 0 without any.

    Args:
        targets: int64 (N,), 1 for a positive sample, 0 for a negative one.
        scores: float32 (N,), probability of the positive class; above THRESHOLD is positive.
    """
    predicted = scores > THRESHOLD
    return _share(int((predicted & (targets == POSITIVE_CLASS)).sum()), int(predicted.sum()))


def recall(targets: IntArray, scores: FloatArray) -> float:
    """Return the share (0–1) of the positives that are predicted positive; 0 without any."""
    positive = targets == POSITIVE_CLASS
    return _share(int((positive & (scores > THRESHOLD)).sum()), int(positive.sum()))


def roc_auc(targets: IntArray, scores: FloatArray) -> float:
    """Return the area under the ROC curve (0–1): how often a positive scores above a negative.

    Equal scores count one half. 0 if a class is absent, because every epoch needs a number.
    """
    true, false = cumulative(targets, scores)
    if not true[-1] or not false[-1]:
        return 0.0
    heights = (true[1:] + true[:-1]) / 2
    return float((np.diff(false) * heights).sum() / (true[-1] * false[-1]))


def average_precision(targets: IntArray, scores: FloatArray) -> float:
    """Return the area under the precision-recall curve (0–1) as a sum of rectangles.

    0 without a positive sample.
    """
    true, false = cumulative(targets, scores)
    if not true[-1]:
        return 0.0
    precisions = true[1:] / (true[1:] + false[1:])
    return float((np.diff(true) * precisions).sum() / true[-1])


BINARY_METRICS: Mapping[str, Callable[[IntArray, FloatArray], float]] = {
    "precision": precision,
    "recall": recall,
    "auc": roc_auc,
    "prc": average_precision,
}
"""The values of `eval_metric` other than accuracy."""


def cumulative(targets: IntArray, scores: FloatArray) -> tuple[Array, Array]:
    """Return (true, false) positives from no positive on, at each threshold, the highest first."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    true = np.cumsum(targets[order] == POSITIVE_CLASS, dtype=np.float64)[ends]
    return np.append(0.0, true), np.append(0.0, ends + 1 - true)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


MultiHot = UInt8Array | IntArray
"""(N, classes) of 0 and 1."""


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return float32 (N, classes) probabilities of (N, classes) logits, without overflow."""
    positive = 1.0 / (1.0 + np.exp(-np.abs(logits)))
    return np.asarray(np.where(logits >= 0, positive, 1.0 - positive), np.float32)


def binary_cross_entropy(multi_hot: MultiHot, probabilities: FloatArray) -> float:
    """Return the mean of −log p(correct decision) over samples and classes; p is at least 1e-12."""
    if not multi_hot.size:
        return 0.0
    means, sizes = [], []
    for which, piece in pieces(probabilities, only_mapped=True):
        correct = np.where(multi_hot[which], piece, 1.0 - piece)
        means.append(float(-np.log(np.maximum(correct, 1e-12)).mean()))
        sizes.append(len(piece))
    return float(np.average(means, weights=sizes)) if len(means) > 1 else means[0]


def label_accuracy(multi_hot: MultiHot, probabilities: FloatArray) -> float:
    """Return the share of correct decisions over samples and classes; NaN is wrong."""
    if not multi_hot.size:
        return 0.0
    correct = 0
    for which, piece in pieces(probabilities):
        yes, no = piece >= THRESHOLD, piece < THRESHOLD
        correct += np.count_nonzero(np.where(multi_hot[which], yes, no))
    return correct / multi_hot.size


def positive_weights(multi_hot: MultiHot) -> tuple[float, ...]:
    """Return the weight of each class where it is present: images without it / images with it.

    Images with a class and images without it then have equal weight in the loss. A class that all
    images have, or none, weighs 1. The built-in's documentation says "from class frequencies" and
    gives no formula; this is the usual one.
    """
    present = multi_hot.sum(axis=0, dtype=np.int64)
    absent = len(multi_hot) - present
    ratios = absent / np.maximum(present, 1)
    return tuple(np.where((present > 0) & (absent > 0), ratios, 1.0).tolist())


@dataclass(frozen=True)
class Outcomes:
    """The predictions of a model for a split.

    Attributes:
        keys: N sample keys.
        targets: int64 (N,) class indices, or uint8 (N, classes) with multiple labels per sample.
        probabilities: float32 (N, classes); a mapped file if they are many, see `Rows`.
    """

    keys: tuple[str, ...]
    targets: Array
    probabilities: FloatArray


def softmax(logits: FloatArray) -> FloatArray:
    """Return float32 (N, classes) probabilities of (N, classes) logits, without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted, dtype=np.float32)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


def collect(batches: Iterable[Batch], predict: Callable[[UInt8Array], FloatArray]) -> Outcomes:
    """Return the outcomes of all batches; `predict` maps uint8 images to probabilities.

    Raises:
        DataError: there is no usable sample.
    """
    keys: list[str] = []
    targets, probabilities = Rows(), Rows()
    for batch in batches:
        if not len(batch):  # all its samples were bad
            continue
        probabilities.append(predict(batch.images))
        keys.extend(batch.keys)
        targets.append(batch.targets.copy())
    if not keys:
        raise DataError(
            "no image of the split could be used; the log names each one with the reason"
        )
    return Outcomes(tuple(keys), targets.array(), probabilities.array())


def predicted_classes(probabilities: FloatArray) -> IntArray:
    """Return int64 (N,), the most probable class of each row."""
    found = np.empty(len(probabilities), np.int64)
    for which, piece in pieces(probabilities):
        found[which] = piece.argmax(axis=1)
    return found


def probabilities_of(classes: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return float32 (N,), the probability of one class of each row."""
    found = np.empty(len(probabilities), probabilities.dtype)
    for which, piece in pieces(probabilities):
        found[which] = piece[np.arange(len(piece)), classes[which]]
    return found


def constant_share(outcomes: Outcomes) -> float | None:
    """Return the accuracy (0–1) if one class is predicted for all samples of several classes.

    None for other outcomes, also for those with multiple labels per sample.
    """
    targets = outcomes.targets
    if targets.ndim == 2 or (targets == targets[0]).all():
        return None
    predicted = predicted_classes(outcomes.probabilities)
    if (predicted != predicted[0]).any():
        return None
    return float((targets == predicted[0]).mean())


def top_k_accuracy(targets: IntArray, scores: FloatArray, k: int = 1) -> float:
    """Return the share (0–1) of samples whose class is among the k highest scores; 0 without any.

    Of tied classes the lower index ranks first. A score of NaN is never correct.
    """
    if not len(targets):
        return 0.0
    columns = np.arange(scores.shape[1])[None, :]
    hits = 0
    for which, piece in pieces(scores):
        target = targets[which][:, None]
        own = np.take_along_axis(piece, target, axis=1)
        behind = (piece < own) | ((piece == own) & (columns >= target))
        ahead = ~behind  # not "scores > own": a NaN counts against the sample
        hits += np.count_nonzero(ahead.sum(axis=1) < k)
    return hits / len(targets)


def cross_entropy(targets: IntArray, probabilities: FloatArray) -> float:
    """Return the mean of −log p(class), natural logarithm; p is at least 1e-12."""
    own = probabilities_of(targets, probabilities)
    return float(-np.log(np.maximum(own, 1e-12)).mean()) if len(targets) else 0.0


def metric_names(top_k: int | None = None, *, is_binary: bool = False) -> tuple[str, ...]:
    """Return the names of the metrics that `metrics_of` returns."""
    of_top_k = (f"top_k_accuracy_{top_k}",) if top_k else ()
    return ("loss", "accuracy", *of_top_k, *(BINARY_METRICS if is_binary else ()))


def metrics_of(
    outcomes: Outcomes, top_k: int | None = None, *, is_binary: bool = False
) -> dict[str, float]:
    """Return loss, accuracy and, if requested, top_k_accuracy_<k> and all binary metrics."""
    targets, probabilities = outcomes.targets, outcomes.probabilities
    if targets.ndim == 2:
        loss = binary_cross_entropy(targets, probabilities)
        return {"loss": loss, "accuracy": label_accuracy(targets, probabilities)}
    values = [cross_entropy(targets, probabilities), top_k_accuracy(targets, probabilities)]
    if top_k:
        values.append(top_k_accuracy(targets, probabilities, top_k))
    if is_binary:
        scores = probabilities[:, POSITIVE_CLASS]
        values += [measure(targets, scores) for measure in BINARY_METRICS.values()]
    return dict(zip(metric_names(top_k, is_binary=is_binary), values, strict=True))


def confusions(outcomes: Outcomes) -> dict[tuple[int, int], int]:
    """Return (true class, predicted class) → samples for the pairs that occur, most frequent first.

    Sparse, because a matrix of ImageNet-21k's classes would have 3.8 GB. Empty with multiple labels
    per sample, which cannot be confused with one another.
    """
    if outcomes.targets.ndim == 2:
        return {}
    predicted = predicted_classes(outcomes.probabilities)
    pairs = Counter(zip(outcomes.targets.tolist(), predicted.tolist(), strict=True))
    return dict(pairs.most_common())


def tallies(outcomes: Outcomes, classes: int) -> IntArray:
    """Return int64 (3, classes): samples of each class, predictions of it, and correct ones."""
    if outcomes.targets.ndim == 2:
        counts: list[Array] = [np.zeros(classes, np.int64) for _ in range(3)]
        for which, piece in pieces(outcomes.probabilities):
            present, predicted = outcomes.targets[which] > 0, piece >= THRESHOLD
            for count, seen in zip(counts, (present, predicted, present & predicted), strict=True):
                count += seen.sum(axis=0)
    else:
        own, found = outcomes.targets, predicted_classes(outcomes.probabilities)
        counts = [np.bincount(v, minlength=classes) for v in (own, found, own[found == own])]
    return np.stack(counts)


def per_class(outcomes: Outcomes, names: Sequence[str]) -> list[dict[str, object]]:
    """Return one row per class: samples, recall and precision (None where undefined)."""
    counts = tallies(outcomes, len(names)).tolist()
    return [
        {
            "label": name,
            "samples": samples,
            "recall": hits / samples if samples else None,
            "precision": hits / predictions if predictions else None,
        }
        for name, samples, predictions, hits in zip(names, *counts, strict=True)
    ]
