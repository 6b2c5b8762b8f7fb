"""What the best weights of a job reach, in the probabilities that will be served."""

from __future__ import annotations

import logging
import time

from image_classification.training.calibration import at_temperature, calibrate, reliability
from image_classification.training.evaluation import Outcomes, metrics_of
from image_classification.training.inputs import Inputs
from image_classification.training.loaders import Loaders
from image_classification.training.loop import Loop
from image_classification.training.report import surest_mistakes
from image_classification.training.request import JobRequest
from image_classification.training.results import Results

_logger = logging.getLogger(__name__)


def measure(
    request: JobRequest, inputs: Inputs, loaders: Loaders, loop: Loop, started_from: str
) -> Results:
    """Fit the temperature on validation, measure the channel test, gather what a report needs.

    Args:
        request, inputs, loaders: of the job.
        loop: after training; its engine holds the best weights.
        started_from: where the first weights came from, in a few words.
    """
    settings, outcomes = loop.settings, loop.evaluate()
    calibration = calibrate(outcomes, is_wanted=settings.calibrate)
    _logger.info("%s", calibration.line())
    validation = at_temperature(outcomes, calibration.temperature)
    return Results(
        interface=request.interface.name,
        settings=settings,
        inputs=inputs,
        history=loop.history,
        validation=validation,
        test=_test(loop, loaders, calibration.temperature),
        calibration=calibration,
        reliability=(reliability(outcomes), reliability(validation)),
        mistakes=surest_mistakes(validation, inputs.validation),
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
        _logger.warning("Stopping: the channel test is not measured")
        return None
    outcomes = at_temperature(found, temperature)
    measured = metrics_of(outcomes, settings.top_k, settings.binary_metric)
    loop.journal.test_lines(measured, len(outcomes.keys), time.monotonic() - start)
    return outcomes
