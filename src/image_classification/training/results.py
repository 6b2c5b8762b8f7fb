"""The results of a finished job: its best weights, measured on the probabilities to be served."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image_classification import curation
from image_classification.curation.label_issues import outliers, score_labels
from image_classification.errors import DataError
from image_classification.feature_index import FeatureIndex
from image_classification.images.encode import shrunk, thumbnail
from image_classification.labels.label_map import LabelMap
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.feature_loader import FeatureLoader
from image_classification.loading.order import mixing_generator
from image_classification.loading.sources import Source
from image_classification.samples import FloatArray, IntArray
from image_classification.training.calibration import (
    Calibration,
    Reliability,
    at_temperature,
    calibrate,
    reliability,
)
from image_classification.training.checkpoint import History
from image_classification.training.evaluation import (
    Outcomes,
    metrics_of,
    pieces,
)
from image_classification.training.inputs import Inputs
from image_classification.training.known_images import known_images
from image_classification.training.loaders import Loaders
from image_classification.training.loop import LastWeights, Loop
from image_classification.training.mixup import mix_images
from image_classification.training.report.sections import BARS
from image_classification.training.request import JobRequest
from image_classification.training.settings import Settings

MOST_SUSPECTS = 24  # pictures of labels to review, about 5 KB each in the page
_MOST_AUGMENTED = 16
_MOST_LABELS = 3  # of one augmented image
_MOST_OUTLIERS = 12
_LEAST_JUDGED = 20  # validation images
_MOST_JUDGED, _MOST_JUDGED_VALUES = 20_000, 250_000  # images; images × classes

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Augmented:
    """A training image as the network sees it in the first step.

    Attributes:
        label: the class name, or the names of both images of a mixture.
        picture: a `data:` URI.
    """

    label: str
    picture: str


@dataclass(frozen=True)
class Suspect:
    """An image whose label is perhaps wrong, or that is unlike all others.

    Attributes:
        split: train or validation.
        position: of the sample in the source of the split.
        key: of the sample.
        target, suggested: class indices; of an outlier they are equal.
        score: 0–1, the probability that the label is wrong; of an outlier, the mean distance to
            its nearest neighbors, 0–2.
        picture: a `data:` URI, or None beyond the first ones, or if it can no longer be read.
    """

    split: str
    position: int
    key: str
    target: int
    suggested: int
    score: float
    picture: str | None = None


@dataclass(frozen=True)
class LabelReview:
    """What is to be looked at in the labels of a job.

    Attributes:
        splits: those that were judged.
        images: how many were judged.
        threshold: the least score of a suspect, 0–1.
        suspects, outliers: the most suspicious first.
        accuracy: 0–1, of k-fold heads on the features that the job has kept; None if it has kept
            none, and the model's own validation predictions were judged.
        interval: its 95% interval.
        left_out: indices of the classes with too few images for these heads.
    """

    splits: tuple[str, ...]
    images: int
    threshold: float
    suspects: Sequence[Suspect]
    outliers: Sequence[Suspect] = ()
    accuracy: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    left_out: Sequence[int] = ()


@dataclass(frozen=True)
class Results:
    """A finished job.

    Attributes:
        interface: mxnet or tensorflow.
        settings, inputs: of the job.
        history: every epoch.
        validation, test: outcomes of the best weights with the probabilities to be served; test is
            None without that channel.
        calibration: fitted on validation.
        reliability: on validation, before and after calibration, in BARS intervals.
        augmented: images of the first training batch; none of a stream.
        is_stopped: whether the artifact must be written in time.
        bad_samples: the images that were skipped.
        last_weights: None unless the job keeps them.
        started_from: the origin of the first weights, in a few words.
        hyperparameters: (name, value, origin).
        label_review: the labels to review; None if samples have several, or are too few,
            or the job was stopped.
        known_images: the index of features of training images; None if the artifact gets none.
    """

    interface: str
    settings: Settings
    inputs: Inputs
    history: History
    validation: Outcomes
    test: Outcomes | None
    calibration: Calibration
    reliability: tuple[Reliability, Reliability]
    augmented: Sequence[Augmented]
    is_stopped: bool
    bad_samples: BadSamples
    last_weights: LastWeights | None
    started_from: str
    hyperparameters: Sequence[tuple[str, str, str]]
    label_review: LabelReview | None = None
    known_images: FeatureIndex | None = None

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have multiple labels."""
        return self.validation.targets.ndim == 2

    def line(self) -> str:
        """Return the log line about the best epoch."""
        history, fitted = self.history, self.calibration
        best, loss = history.best_epoch, f"{fitted.loss_before:.6f}"
        if not fitted.reason:
            loss += f" ({fitted.loss_after:.6f} as served, calibrated)"
        return (
            f"The best epoch was {best + 1} with validation {history.metric} "
            f"{history.accuracies[best]:.6f} and loss {loss}"
        )


def measure(
    request: JobRequest, inputs: Inputs, loaders: Loaders, loop: Loop, started_from: str
) -> Results:
    """Fit the temperature on validation, measure the `test` channel, collect the report's data.

    Args:
        request, inputs, loaders: of the job.
        loop: after training; its engine holds the best weights.
        started_from: the origin of the first weights, in a few words.
    """
    settings, outcomes = loop.settings, loop.evaluate()
    fitted = calibrate(outcomes, is_wanted=settings.calibrate)
    _logger.info("%s", fitted.line())
    validation = at_temperature(outcomes, fitted.temperature)
    return Results(
        interface=request.interface.name,
        settings=settings,
        inputs=inputs,
        history=loop.history,
        validation=validation,
        test=_test(loop, loaders, fitted.temperature),
        calibration=fitted,
        reliability=(reliability(outcomes, BARS), reliability(validation, BARS)),
        augmented=augmented_images(loop, loaders, inputs.labels),
        is_stopped=loop.should_stop(),
        bad_samples=loaders.bad_samples,
        last_weights=loop.last_weights,
        started_from=started_from,
        hyperparameters=request.origins(),
        label_review=_review(loop, loaders, validation, inputs),
        known_images=known_images(loop, loaders),
    )


def _test(loop: Loop, loaders: Loaders, temperature: float) -> Outcomes | None:
    if loaders.test is None:
        return None
    start, settings = time.monotonic(), loop.settings
    found = loop.outcomes_of(loaders.test)
    if found is None:
        _logger.warning("Stopping: the test channel is not measured")
        return None
    outcomes = at_temperature(found, temperature)
    measured = metrics_of(outcomes, settings.top_k, is_binary=settings.binary_mode)
    loop.journal.test_lines(measured, len(outcomes.keys), time.monotonic() - start)
    return outcomes


def augmented_images(loop: Loop, loaders: Loaders, labels: LabelMap) -> list[Augmented]:
    """Return at most 16 images of the first training batch, prepared again as in the first step.

    There are none of a stream, and none if the job must stop.

    Augmentation is a function of seed, epoch and step, so this changes nothing of the job.
    """
    if loop.should_stop():
        return []
    loader, recipe = loaders.training, loop.settings.recipe
    indices, images = loader.preview(_MOST_AUGMENTED)
    source = loader.source
    texts = [_label_of(source, index, labels) for index in indices.tolist()]
    alphas = (recipe.mixup_alpha, recipe.cutmix_alpha)
    if any(alphas) and len(images) > 1:
        mix_images(images, mixing_generator(loop.settings.seed, 0, loop.world.rank, 0), *alphas)
        pairs = zip(texts, reversed(texts), strict=True)
        texts = [own if own == other else f"{own} with {other}" for own, other in pairs]
    return [Augmented(text, shrunk(image)) for text, image in zip(texts, images, strict=True)]


def _label_of(source: Source, index: int, labels: LabelMap) -> str:
    if source.multi_hot is None:
        return labels.names[int(source.class_indices[index])]
    own = np.flatnonzero(source.multi_hot[index]).tolist()
    return ", ".join(labels.names[i] for i in own[:_MOST_LABELS]) or "none"


def _review(
    loop: Loop, loaders: Loaders, validation: Outcomes, inputs: Inputs
) -> LabelReview | None:
    if loop.should_stop():  # the artifact must be written in time
        _logger.warning("Stopping: the labels are not judged")
        return None
    return review_labels(loaders, validation, inputs)


def review_labels(loaders: Loaders, validation: Outcomes, inputs: Inputs) -> LabelReview | None:
    """Return the labels that are perhaps wrong; what it costs is bounded.

    With kept features, k-fold heads judge the labels of training and validation: on two cores 1 s
    for 650 images and 5 classes, at the limits about 15 s. Otherwise the validation predictions
    judge those of validation.
    """
    if validation.targets.ndim == 2 or validation.probabilities.shape[1] < 2:
        return None
    kept = _kept_features(loaders, len(inputs.labels))
    if kept is not None:
        return _judged_by_heads(inputs, *kept)
    if len(validation.keys) < _LEAST_JUDGED or not inputs.validation.is_countable:
        return None
    classes = validation.probabilities.shape[1]
    scores = score_labels(pieces(validation.probabilities), validation.targets, classes)
    source = inputs.validation
    ranked = scores.ranked()
    positions = {source.key(place): place for place in range(len(source)) if ranked}
    ranked = [index for index in ranked if validation.keys[index] in positions]
    suspects = [
        _suspect(
            source,
            ("validation", positions[validation.keys[index]]),
            (int(validation.targets[index]), int(scores.suggested[index])),
            float(scores.scores[index]),
            is_shown=number < MOST_SUSPECTS,
        )
        for number, index in enumerate(ranked)
    ]
    return LabelReview(("validation",), len(validation.keys), scores.threshold, suspects)


def _kept_features(
    loaders: Loaders, classes: int
) -> tuple[list[tuple[str, int]], IntArray, FloatArray] | None:
    """Return split and position, class and features of images; None if there are none, too many,
    or no two classes with enough images."""
    keeping = [
        (name, loader)
        for name, loader in (("train", loaders.training), ("validation", loaders.validation))
        if isinstance(loader, FeatureLoader) and loader.source.is_countable
    ]
    images = sum(len(loader.source) for _, loader in keeping)
    if not 0 < images <= _MOST_JUDGED or images * classes > _MOST_JUDGED_VALUES:
        return None
    found = [(name, loader, *loader.kept()) for name, loader in keeping]
    places = [(name, int(index)) for name, _, indices, _ in found for index in indices]
    labels = np.concatenate([one.source.class_indices[indices] for _, one, indices, _ in found])
    is_judged = np.isin(labels, np.flatnonzero(np.bincount(labels) >= curation.LEAST_IMAGES))
    if len(np.unique(labels[is_judged])) < 2:
        return None
    features = np.concatenate([rows for _, _, _, rows in found])[is_judged]
    return [places[i] for i in np.flatnonzero(is_judged)], labels[is_judged], features


def _judged_by_heads(
    inputs: Inputs, places: Sequence[tuple[str, int]], labels: IntArray, features: FloatArray
) -> LabelReview:
    numbers, compact = np.unique(labels, return_inverse=True)
    left_out = np.setdiff1d(np.arange(len(inputs.labels)), numbers)
    heads = curation.fit_folds(features, compact, len(numbers))
    scores = score_labels(heads.chunks(), compact, len(numbers))
    suspects = [
        _suspect(
            inputs.splits[places[index][0]],
            places[index],
            (int(labels[index]), int(numbers[scores.suggested[index]])),
            float(scores.scores[index]),
            is_shown=number < MOST_SUSPECTS,
        )
        for number, index in enumerate(scores.ranked())
    ]
    unlike = [
        _suspect(
            inputs.splits[places[index][0]],
            places[index],
            (int(labels[index]), int(labels[index])),
            distance,
            is_shown=number < _MOST_OUTLIERS,
        )
        for number, (index, distance) in enumerate(outliers(features))
    ]
    return LabelReview(
        tuple(dict.fromkeys(split for split, _ in places)),
        len(labels),
        scores.threshold,
        suspects,
        unlike,
        scores.accuracy,
        curation.wilson_interval(scores.accuracy, len(labels)),
        left_out.tolist(),
    )


def _suspect(
    source: Source,
    place: tuple[str, int],
    classes: tuple[int, int],
    score: float,
    *,
    is_shown: bool,
) -> Suspect:
    picture = _picture(source, place[1]) if is_shown else None
    return Suspect(*place, source.key(place[1]), *classes, score, picture)


def _picture(source: Source, position: int) -> str | None:
    try:
        return thumbnail(source.read(position).data)
    except DataError:  # the file is gone by now
        return None
