"""How good answers are, beyond one number: scores of each class, curves, coverage, intervals.

In: `Outcomes`. Out: values for the report. All of it is NumPy, and bounded: see `MOST_VALUES` and
`MOST_DRAWN`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image_classification.curation import wilson_interval
from image_classification.samples import THRESHOLD, Array, Float64Array, FloatArray, IntArray
from image_classification.training.evaluation import (
    POSITIVE_CLASS,
    Outcomes,
    average_precision,
    confusions,
    cumulative,
    pieces,
    predicted_classes,
    probabilities_of,
    roc_auc,
    tallies,
)

MOST_VALUES = 5_000_000
"""Samples × classes up to which every class has its curves: about 1 CPU-second."""
MOST_POINTS = 120
"""Points of a curve."""
MOST_DRAWN = 5_000_000
"""Random numbers of a bootstrap: about 0.5 CPU-seconds."""
_NORMAL = 1.959964  # standard deviations on either side of 95%
_MOST_RESAMPLES, _LEAST_RESAMPLES = 1000, 100

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassScore:
    """The counts of one class.

    Attributes:
        index: of the class.
        samples: those that have the class.
        predicted: those that the model gives it.
        hits: those of both kinds.
    """

    index: int
    samples: int
    predicted: int
    hits: int

    @property
    def recall(self) -> float | None:
        """hits / samples; None without a sample."""
        return self.hits / self.samples if self.samples else None

    @property
    def precision(self) -> float | None:
        """hits / predicted; None without a prediction."""
        return self.hits / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """2 hits / (samples + predicted); None without either."""
        both = self.samples + self.predicted
        return 2 * self.hits / both if both else None

    @property
    def recall_interval(self) -> Interval | None:
        """The 95% interval of the recall (Wilson)."""
        return wilson_interval(self.hits / self.samples, self.samples) if self.samples else None

    @property
    def f1_interval(self) -> Interval | None:
        """The 95% interval of F1.

        F1 is 2J / (1 + J), where J is the Jaccard index: the share of hits among the samples that
        have the class or get it. Both limits are those of Wilson's interval of J, transformed. It
        holds for the given number of such samples, and has a width even where all are hits.
        """
        either = self.samples + self.predicted - self.hits
        if not either:
            return None
        low, high = wilson_interval(self.hits / either, either)
        return 2 * low / (1 + low), 2 * high / (1 + high)


def class_scores(outcomes: Outcomes, classes: int) -> list[ClassScore]:
    """Return the scores of every class, in the order of their indices."""
    counts = tallies(outcomes, classes).T.tolist()
    return [ClassScore(index, *row) for index, row in enumerate(counts)]


@dataclass(frozen=True)
class MeanF1:
    """Means of F1 over the classes that have samples or predictions; 0–1.

    Attributes:
        macro: each class counts the same.
        weighted: each class counts by its samples.
        macro_interval, weighted_interval: 95% intervals; None if they would take too long.
    """

    macro: float
    weighted: float
    macro_interval: Interval | None
    weighted_interval: Interval | None


def mean_f1(outcomes: Outcomes, classes: int, seed: int = 0) -> MeanF1:
    """Return macro and weighted F1 with the intervals of a bootstrap over the samples.

    A resample of N samples draws the counts of the pairs (class, predicted class) from a
    multinomial distribution, which is the same as drawing samples with replacement. With multiple
    labels per sample it draws how often each sample counts. The interval is the mean ± 1.96
    standard deviations of the resamples: with few samples per class, the resamples themselves have
    a lower F1, so their percentiles would be too low. Source: B. Efron and R. Tibshirani, An
    Introduction to the Bootstrap (1993), standard normal interval. 1,000 resamples, fewer (at least
    100) if they take more than MOST_DRAWN random numbers.
    """
    counts = tallies(outcomes, classes)
    macro, weighted = _means(counts[:, None, :].astype(np.float64))
    generator = np.random.default_rng(seed)
    if outcomes.targets.ndim == 2:
        drawn = _resampled_rows(outcomes, generator)
    else:
        drawn = _resampled_pairs(outcomes, classes, generator)
    if drawn is None:
        return MeanF1(float(macro[0]), float(weighted[0]), None, None)
    intervals = [
        (max(0.0, mean - _NORMAL * error), min(1.0, mean + _NORMAL * error))
        for mean, error in zip(
            (float(macro[0]), float(weighted[0])),
            (float(values.std(ddof=1)) for values in _means(drawn)),
            strict=True,
        )
    ]
    return MeanF1(float(macro[0]), float(weighted[0]), *intervals)


def _means(counts: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return macro and weighted F1 (resamples,) of (3, resamples, classes) tallies."""
    samples, predicted, hits = counts
    both = samples + predicted
    f1 = 2 * hits / np.maximum(both, 1)
    macro = f1.sum(axis=1) / np.maximum((both > 0).sum(axis=1), 1)
    return macro, (f1 * samples).sum(axis=1) / np.maximum(samples.sum(axis=1), 1)


def _resamples(values: int) -> int:
    """Return how many resamples to draw of so many random numbers; 0 if there is no time."""
    count = min(_MOST_RESAMPLES, MOST_DRAWN // max(values, 1))
    return count if count >= _LEAST_RESAMPLES else 0


def _resampled_pairs(
    outcomes: Outcomes, classes: int, generator: np.random.Generator
) -> Float64Array | None:
    found = confusions(outcomes)
    resamples = _resamples(max(len(found), classes))
    if not resamples:
        return None
    pairs = np.array(list(found), np.int64)
    shares = np.array(list(found.values()), np.float64) / len(outcomes.keys)
    drawn = generator.multinomial(len(outcomes.keys), shares, resamples).astype(np.float64)
    counts = np.zeros((3, classes, resamples))
    np.add.at(counts[0], pairs[:, 0], drawn.T)
    np.add.at(counts[1], pairs[:, 1], drawn.T)
    is_hit = pairs[:, 0] == pairs[:, 1]
    counts[2, pairs[is_hit, 0]] = drawn.T[is_hit]
    return counts.transpose(0, 2, 1)


def _resampled_rows(outcomes: Outcomes, generator: np.random.Generator) -> Float64Array | None:
    samples, classes = outcomes.targets.shape
    resamples = _resamples(samples)
    if not resamples or samples * classes * resamples > 100 * MOST_DRAWN:
        return None
    weights = generator.multinomial(samples, np.full(samples, 1 / samples), resamples)
    counts = np.zeros((3, resamples, classes))
    for which, piece in pieces(outcomes.probabilities):
        present, predicted = outcomes.targets[which] > 0, piece >= THRESHOLD
        for count, rows in zip(counts, (present, predicted, present & predicted), strict=True):
            count += weights[:, which] @ rows.astype(np.float64)
    return counts


Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    """How well the probability of one class tells its samples from the others.

    Attributes:
        index: of the class.
        auc: area under the ROC curve, 0–1.
        average_precision: area under the precision-recall curve, 0–1.
        roc: (false positive rate, true positive rate) from (0, 0) to (1, 1).
        precision_recall: (recall, precision) by increasing recall.
    """

    index: int
    auc: float
    average_precision: float
    roc: Points
    precision_recall: Points


def curves(outcomes: Outcomes, chosen: Sequence[int]) -> list[Curves]:
    """Return the curves of the chosen classes, each against all others; not of a class that all
    samples have, or none."""
    scores = np.empty((len(outcomes.keys), len(chosen)), np.float32)
    for which, piece in pieces(outcomes.probabilities):
        scores[which] = piece[:, list(chosen)]
    found = []
    for column, index in enumerate(chosen):
        own = outcomes.targets
        is_present = own[:, index] > 0 if own.ndim == 2 else own == index
        if is_present.all() or not is_present.any():
            continue
        targets = np.where(is_present, POSITIVE_CLASS, 0)
        true, false = cumulative(targets, scores[:, column])
        recall = true / true[-1]
        precision = true[1:] / (true[1:] + false[1:])
        found.append(
            Curves(
                index,
                roc_auc(targets, scores[:, column]),
                average_precision(targets, scores[:, column]),
                _points(false / false[-1], recall),
                _points(recall[1:], precision),
            )
        )
    return found


def _points(xs: Float64Array, ys: Float64Array, most: int = MOST_POINTS) -> Points:
    """Return at most `most` points, the first and the last among them."""
    count = min(len(xs), most)
    chosen = np.round(np.linspace(0, len(xs) - 1, count)).astype(np.int64)
    return list(zip(xs[chosen].tolist(), ys[chosen].tolist(), strict=True))


def confidences(outcomes: Outcomes) -> tuple[IntArray, FloatArray, Array]:
    """Return int64 predicted classes, float32 confidences and bool correctness, each (N,), of
    samples with one class."""
    predicted = predicted_classes(outcomes.probabilities)
    confidence = probabilities_of(predicted, outcomes.probabilities)
    return predicted, confidence, predicted == outcomes.targets


def coverage(confidence: FloatArray, is_correct: Array) -> Points:
    """Return (share of samples, accuracy of these) for each threshold of the confidence, from the
    highest on. Samples with equal confidence come together."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    correct = np.cumsum(is_correct[order])[ends]
    return _points((ends + 1) / len(order), correct / (ends + 1), 3 * MOST_POINTS)


@dataclass(frozen=True)
class AtThreshold:
    """What happens if answers below a threshold are left to a person.

    Attributes:
        threshold: 0–1.
        answered: samples with at least this confidence.
        correct: those of them that are correct.
        interval: 95% interval of their accuracy (Wilson); (0, 1) without any.
    """

    threshold: float
    answered: int
    correct: int

    @property
    def interval(self) -> Interval:
        if not self.answered:
            return 0.0, 1.0
        return wilson_interval(self.correct / self.answered, self.answered)


def at_thresholds(
    confidence: FloatArray, is_correct: Array, thresholds: Sequence[float]
) -> list[AtThreshold]:
    """Return one row for each threshold."""
    rows = []
    for threshold in thresholds:
        is_answered = confidence >= np.float32(threshold)
        answered, correct = int(is_answered.sum()), int((is_correct & is_answered).sum())
        rows.append(AtThreshold(threshold, answered, correct))
    return rows


def decisions_at(
    outcomes: Outcomes, thresholds: Sequence[float]
) -> list[tuple[float, float | None, float | None, float | None]]:
    """Return (threshold, precision, recall, F1) over all samples and classes (micro averages) of
    samples with multiple labels."""
    counts = np.zeros((len(thresholds), 2), np.int64)
    positives = int(np.count_nonzero(outcomes.targets))
    for which, piece in pieces(outcomes.probabilities):
        present = outcomes.targets[which] > 0
        for row, threshold in zip(counts, thresholds, strict=True):
            is_predicted = piece >= np.float32(threshold)
            row += np.count_nonzero(is_predicted), np.count_nonzero(is_predicted & present)
    rows = []
    for threshold, (predicted, hits) in zip(thresholds, counts.tolist(), strict=True):
        score = ClassScore(0, positives, predicted, hits)
        rows.append((threshold, score.precision, score.recall, score.f1))
    return rows


def borderline(outcomes: Outcomes, most: int) -> list[tuple[int, int]]:
    """Return position and second most probable class of the samples with the
    smallest difference between the two highest probabilities."""
    if outcomes.probabilities.shape[1] < 2:
        return []
    margins = np.empty(len(outcomes.keys), np.float32)
    for which, piece in pieces(outcomes.probabilities):
        two = np.partition(piece, -2, axis=1)[:, -2:]
        margins[which] = two[:, 1] - two[:, 0]
    chosen = np.argsort(margins, kind="stable")[:most].tolist()
    return [(i, int(np.argsort(-outcomes.probabilities[i], kind="stable")[1])) for i in chosen]


def members(
    outcomes: Outcomes, pairs: Sequence[tuple[int, int]], most: int
) -> dict[tuple[int, int], list[int]]:
    """Return at most `most` samples of each pair (class, predicted class).

    Of wrong answers those with the highest confidence come first, of correct ones the lowest.
    """
    predicted, confidence, is_correct = confidences(outcomes)
    wanted: set[tuple[int, int]] = set(pairs)
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    order = np.argsort(np.where(is_correct, confidence, -confidence), kind="stable")
    for index in order.tolist():
        pair = int(outcomes.targets[index]), int(predicted[index])
        if pair in wanted and len(found[pair]) < most:
            found[pair].append(index)
    return found


def wrong_decisions(outcomes: Outcomes, most: int) -> list[tuple[int, int]]:
    """Return sample and class of the most confident wrong decisions, of samples with multiple
    labels."""
    places: Array = np.zeros((0, 2), np.int64)
    distances: Array = np.zeros(0, np.float32)
    for which, piece in pieces(outcomes.probabilities):
        is_wrong = (piece >= THRESHOLD) != (outcomes.targets[which] > 0)
        rows, columns = np.nonzero(is_wrong)
        own = np.stack([rows + (which.start or 0), columns], axis=1)
        places = np.concatenate([places, own])
        distances = np.concatenate([distances, np.abs(piece[rows, columns] - THRESHOLD)])
        best = np.argsort(-distances, kind="stable")[:most]
        places, distances = places[best], distances[best]
    return [(int(sample), int(index)) for sample, index in places]
