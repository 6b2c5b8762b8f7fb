"""The results of a finished job: its best weights, measured on the probabilities to be served."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image_classification.errors import DataError
from image_classification.images.encode import thumbnail
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.sources import Source
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
    predicted_classes,
    probabilities_of,
)
from image_classification.training.inputs import Inputs
from image_classification.training.loaders import Loaders
from image_classification.training.loop import LastWeights, Loop
from image_classification.training.request import JobRequest
from image_classification.training.settings import Settings

MOST_MISTAKES = 24  # about 4 KB each in the page

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction.

    Attributes:
        key: of the sample.
        target, predicted: class indices.
        probability: 0–1, of the predicted class.
        target_probability: 0–1, of the true class.
        picture: a `data:` URI, or None if the image can no longer be read.
    """

    key: str
    target: int
    predicted: int
    probability: float
    target_probability: float
    picture: str | None


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
        reliability: on validation, before and after calibration.
        mistakes: the most confident ones on validation.
        bad_samples: the images that were skipped.
        last_weights: None unless the job keeps them.
        started_from: the origin of the first weights, in a few words.
        hyperparameters: (name, value, origin).
    """

    interface: str
    settings: Settings
    inputs: Inputs
    history: History
    validation: Outcomes
    test: Outcomes | None
    calibration: Calibration
    reliability: tuple[Reliability, Reliability]
    mistakes: Sequence[Mistake]
    bad_samples: BadSamples
    last_weights: LastWeights | None
    started_from: str
    hyperparameters: Sequence[tuple[str, str, str]]

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
        reliability=(reliability(outcomes), reliability(validation)),
        mistakes=_confident_mistakes(validation, inputs.validation),
        bad_samples=loaders.bad_samples,
        last_weights=loop.last_weights,
        started_from=started_from,
        hyperparameters=request.origins(),
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


def _confident_mistakes(outcomes: Outcomes, source: Source) -> list[Mistake]:
    """Return at most MOST_MISTAKES mistakes, the most confident first; `source` has the pictures.

    An image with multiple labels is seldom right or wrong as a whole: there are no mistakes then.
    """
    if outcomes.targets.ndim == 2:
        return []
    predicted = predicted_classes(outcomes.probabilities)
    wrong = np.flatnonzero(predicted != outcomes.targets)
    confidence = probabilities_of(predicted, outcomes.probabilities)[wrong]
    shown = wrong[np.argsort(-confidence, kind="stable")][:MOST_MISTAKES].tolist()
    positions = {source.key(position): position for position in range(len(source)) if shown}
    mistakes = []
    for index in shown:
        row, key = outcomes.probabilities[index], outcomes.keys[index]
        target, answer = int(outcomes.targets[index]), int(predicted[index])
        picture = _picture(source, positions[key]) if key in positions else None
        mistakes.append(
            Mistake(key, target, answer, float(row[answer]), float(row[target]), picture)
        )
    return mistakes


def _picture(source: Source, position: int) -> str | None:
    try:
        return thumbnail(source.read(position).data)
    except DataError:  # the file is gone by now
        return None
