"""What the report and the model card are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from image_classification.data.labels import LabelMap
from image_classification.training.checkpoint import History
from image_classification.training.evaluation import Outcomes


@dataclass(frozen=True)
class Facts:
    """A finished job.

    Attributes:
        description: the manifest's part about the job.
        labels: class names.
        preprocessing: as in preprocessing.json.
        history: every epoch.
        outcomes: the validation pass with the best weights.
        bad_samples: (key, reason) of the images that could not be used.
    """

    description: Mapping[str, Any]
    labels: LabelMap
    preprocessing: Mapping[str, Any]
    history: History
    outcomes: Outcomes
    bad_samples: Sequence[tuple[str, str]]
