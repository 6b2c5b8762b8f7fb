"""Temperature calibration: one number that makes the probabilities match the accuracy.

In: the outcomes of the validation pass. Out: a temperature T. The served graph divides the logits
by T before its softmax; the order of the classes, and with it every accuracy, stays the same.
Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (temperature scaling, and
the expected calibration error with 15 bins).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from image_classification.samples import THRESHOLD, Float64Array, FloatArray, IntArray
from image_classification.training import evaluation

BINS = 15
SMALLEST, LARGEST = 0.2, 5.0  # beyond these the model is wrong, not its scale
_GOLDEN = (math.sqrt(5) - 1) / 2
_TINY = np.float32(1e-45)  # the smallest float32: keeps the logarithm of a probability of 0 finite


@dataclass(frozen=True)
class Calibration:
    """The fitted temperature and its effect on validation.

    Attributes:
        temperature: the divisor of the logits; 1 leaves them as they are.
        reason: why it is 1, or "" for a fitted one.
        samples: number of validation samples.
        error_before, error_after: expected calibration error, 0–1.
        loss_before, loss_after: mean negative log-likelihood, natural logarithm.
    """

    temperature: float
    reason: str
    samples: int
    error_before: float
    error_after: float
    loss_before: float
    loss_after: float

    def to_json(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "reason": self.reason,
            "samples": self.samples,
            "expected_calibration_error": {"before": self.error_before, "after": self.error_after},
            "negative_log_likelihood": {"before": self.loss_before, "after": self.loss_after},
        }

    def line(self) -> str:
        """Return the log line."""
        if self.reason:
            return (
                f"Serving the network's probabilities without calibration: {self.reason} (expected "
                f"calibration error {self.error_before:.4f})"
            )
        return (
            f"Calibrated with temperature {self.temperature:.4f} on {self.samples} validation "
            f"images: expected calibration error {self.error_before:.4f} -> "
            f"{self.error_after:.4f}, negative log-likelihood {self.loss_before:.4f} -> "
            f"{self.loss_after:.4f}"
        )


def calibrate(outcomes: evaluation.Outcomes, *, is_wanted: bool = True) -> Calibration:
    """Fit the temperature on `outcomes`; keep it only if it helps.

    It stays at 1 if every sample is correct (the best temperature would then be 0), if the gain is
    no more than chance, and if the calibration error rises. A useless parameter still gains 1/(2N)
    of log-likelihood on its own N samples, so the gain must exceed 1/N.
    """
    targets, probabilities = outcomes.targets, outcomes.probabilities
    is_multi_label = targets.ndim == 2
    measure = evaluation.binary_cross_entropy if is_multi_label else evaluation.cross_entropy
    loss = measure(targets, probabilities)
    error = calibration_error(outcomes)

    def refused(reason: str) -> Calibration:
        return Calibration(1.0, reason, len(targets), error, error, loss, loss)

    if not is_wanted:
        return refused("calibrate_probabilities is off")
    if is_multi_label:
        return refused("one temperature does not fit several independent labels")
    if bool((evaluation.predicted_classes(probabilities) == targets).all()):
        return refused(
            "every validation image is correct, so there are no mistakes to fit a temperature on"
        )
    temperature = fit_temperature(targets, probabilities)
    after = at_temperature(outcomes, temperature)
    new_loss = evaluation.cross_entropy(targets, after.probabilities)
    new_error = calibration_error(after)
    if loss - new_loss <= 1 / len(targets):
        return refused(
            f"no temperature lowers the loss by more than chance on {len(targets)} images"
        )
    if new_error > error:
        return refused("the temperature with the lowest loss would raise the calibration error")
    return Calibration(temperature, "", len(targets), error, new_error, loss, new_loss)


def fit_temperature(targets: IntArray, probabilities: FloatArray) -> float:
    """Return the temperature in SMALLEST…LARGEST with the lowest negative log-likelihood.

    Golden-section search over log T: the loss is convex in 1/T and so has one minimum.

    Args:
        targets: int64 (N,) class indices.
        probabilities: float32 (N, classes).
    """
    losses = np.empty(len(targets), np.float64)

    def loss(log_temperature: float) -> float:
        for which, piece in evaluation.pieces(
            probabilities
        ):  # copies of all would take 24 bytes for each
            scaled = _log(piece).astype(np.float64)
            scaled /= math.exp(log_temperature)
            highest = scaled.max(axis=1, keepdims=True)
            own = scaled[np.arange(len(piece)), targets[which]]
            scaled -= highest
            total = np.log(np.exp(scaled, out=scaled).sum(axis=1)) + highest[:, 0]
            losses[which] = total - own
        return float(losses.mean())

    low, high = math.log(SMALLEST), math.log(LARGEST)
    inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    inner_loss, outer_loss = loss(inner), loss(outer)
    while high - low > 1e-5:
        if inner_loss <= outer_loss:
            high, outer, outer_loss = outer, inner, inner_loss
            inner = high - _GOLDEN * (high - low)
            inner_loss = loss(inner)
        else:
            low, inner, inner_loss = inner, outer, outer_loss
            outer = low + _GOLDEN * (high - low)
            outer_loss = loss(outer)
    return math.exp((low + high) / 2)


def at_temperature(outcomes: evaluation.Outcomes, temperature: float) -> evaluation.Outcomes:
    """Return the outcomes of the same model with its logits divided by `temperature`.

    softmax(log p / T) equals softmax(logits / T): the logarithm of the probabilities differs from
    the logits by one constant per row, which the softmax removes.
    """
    if temperature == 1:
        return outcomes
    scaled = evaluation.Rows()
    for _, piece in evaluation.pieces(outcomes.probabilities):
        scaled.append(evaluation.softmax(_log(piece) / np.float32(temperature)))
    return replace(outcomes, probabilities=scaled.array())


@dataclass(frozen=True)
class Reliability:
    """Samples by the probability of their predicted class, in bins of equal width.

    Attributes:
        samples: int64 (bins,).
        confidence, accuracy: float64 (bins,) means, 0–1; 0 in an empty bin.
    """

    samples: IntArray
    confidence: Float64Array
    accuracy: Float64Array


def reliability(outcomes: evaluation.Outcomes, count: int = BINS) -> Reliability:
    """Return how often predictions of each confidence are correct, in `count` bins.

    With multiple labels per sample every class is a decision of its own; its confidence is the
    probability of the more probable answer.
    """
    samples = np.zeros(count, np.int64)
    confidences, correct = np.zeros(count), np.zeros(count)
    for confidence, is_correct in _decisions(outcomes):
        bins = np.clip(np.ceil(confidence * count).astype(np.int64) - 1, 0, count - 1)
        samples += np.bincount(bins, minlength=count)
        confidences += np.bincount(bins, confidence, count)
        correct += np.bincount(bins, is_correct, count)
    divisor = np.maximum(samples, 1)
    return Reliability(samples, confidences / divisor, correct / divisor)


def _decisions(
    outcomes: evaluation.Outcomes,
) -> Iterator[tuple[Float64Array, Float64Array]]:
    """Yield (confidence, 1 if correct else 0) of each decision, some samples at a time."""
    targets, probabilities = outcomes.targets, outcomes.probabilities
    if targets.ndim == 1:
        predicted = evaluation.predicted_classes(probabilities)
        own = evaluation.probabilities_of(predicted, probabilities)
        yield own.astype(np.float64), (predicted == targets).astype(np.float64)
        return
    for which, piece in evaluation.pieces(probabilities, only_mapped=True):
        confidence = np.maximum(piece, 1 - piece).ravel()
        is_correct = ((piece >= THRESHOLD) == (targets[which] > 0)).ravel()
        yield confidence.astype(np.float64), is_correct.astype(np.float64)


def calibration_error(outcomes: evaluation.Outcomes) -> float:
    """Return the expected calibration error, 0–1: mean distance of confidence and accuracy."""
    bins = reliability(outcomes)
    gaps = np.abs(bins.accuracy - bins.confidence)
    return float((gaps * bins.samples).sum() / max(int(bins.samples.sum()), 1))


def _log(probabilities: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.maximum(probabilities, _TINY)), np.float32)
