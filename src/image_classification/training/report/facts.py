"""What the report and the model card are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from image_classification.data.labels import LabelMap
from image_classification.training.calibration import Calibration, Reliability
from image_classification.training.checkpoint import History
from image_classification.training.evaluation import Outcomes
from image_classification.training.report.mistakes import Mistake


@dataclass(frozen=True)
class Facts:
    """A finished job.

    Attributes:
        description: the manifest's part about the job.
        labels: class names.
        preprocessing: as in preprocessing.json.
        history: every epoch.
        outcomes: the validation pass with the best weights, as served.
        calibration: what was fitted.
        reliability: of the validation pass before the temperature, and after it.
        mistakes: the surest errors, with pictures.
        class_counts: split → images of each class; without a split that was streamed.
        bad_samples: (key, reason) of the images that could not be used.
        hyperparameters: (name, value, where it comes from) of all of the interface.
    """

    description: Mapping[str, Any]
    labels: LabelMap
    preprocessing: Mapping[str, Any]
    history: History
    outcomes: Outcomes
    calibration: Calibration
    reliability: tuple[Reliability, Reliability]
    mistakes: Sequence[Mistake]
    class_counts: Mapping[str, Sequence[int]]
    bad_samples: Sequence[tuple[str, str]]
    hyperparameters: Sequence[tuple[str, str, str]]

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes."""
        return self.outcomes.targets.ndim == 2
